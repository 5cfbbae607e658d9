//! Captures of users who cut one another off, and of others who do not.

mod evidence;
mod file;
mod files;
mod message;
mod nat;
mod network;
mod ports_again;
mod properties;
mod sides;
mod tshark;
mod verdicts;

use self::network::{ACK, Network, RST, TestConnection};
use super::{Diagnosis, Report};

const SERVER: &str = "192.168.77.10:445";

fn report(net: &Network) -> Report {
    diagnosis(&file::plain(net)).report().clone()
}

fn diagnosis(file: &[u8]) -> Diagnosis {
    Diagnosis::read(file).unwrap()
}

/// A client connects and logs on in two legs, both with this number.
fn log_on(net: &mut Network, client: &str, server: &str, vc_number: u16) -> TestConnection {
    let mut connection = TestConnection::open(net, client, server);
    log_on_again(net, &mut connection, vc_number);
    connection
}

fn log_on_again(net: &mut Network, connection: &mut TestConnection, vc_number: u16) {
    connection.ask(net, &message::negotiate());
    connection.answer(net, &message::negotiated());
    connection.ask(net, &message::logon(12, vc_number));
    connection.answer(net, &message::challenge());
    connection.ask(net, &message::logon(12, vc_number));
    connection.answer(net, &message::logged_on());
}

fn read_a_file(net: &mut Network, connection: &mut TestConnection) {
    for _ in 0..3 {
        connection.ask(net, &message::read());
        connection.answer(net, &message::data(3000));
    }
}

/// Two users at work; when the third logs on, the server ends their connections.
fn office(address: &str, server: &str) -> Network {
    let mut net = Network::new();
    let client = |port: u16| match address.contains(':') {
        true => format!("[{address}]:{port}"),
        false => format!("{address}:{port}"),
    };
    let mut anna = log_on(&mut net, &client(50_001), server, 1);
    let mut berta = log_on(&mut net, &client(50_002), server, 2);
    net.wait(5000);
    read_a_file(&mut net, &mut anna);
    berta.ask(&mut net, &message::write());
    let mut carla = TestConnection::open(&mut net, &client(50_003), server);
    carla.ask(&mut net, &message::negotiate());
    carla.answer(&mut net, &message::negotiated());
    carla.ask(&mut net, &message::logon(12, 0));
    anna.of_server(&mut net, RST | ACK, &[]);
    berta.of_server(&mut net, RST | ACK, &[]);
    carla.answer(&mut net, &message::challenge());
    carla.ask(&mut net, &message::logon(12, 0));
    carla.answer(&mut net, &message::logged_on());
    net.wait(3000);
    read_a_file(&mut net, &mut carla);
    net
}
