//! The time of one answer, from the question's bytes to those of the answer, without sockets.
//!
//!   cargo bench -p vcgate-dns

use domain::base::iana::{Class, Rcode, Rtype};
use domain::base::{Message, MessageBuilder, Name, ToName, Ttl};
use domain::rdata::A;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use tokio::net::UdpSocket;
use tokio::runtime::Runtime;
use vcgate_dns::{Server, Settings};

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 8, 0, 11));

fn main() {
    divan::main();
}

fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}

fn question(name: &str) -> Vec<u8> {
    let mut message = MessageBuilder::new_vec();
    message.header_mut().set_rd(true);
    let mut message = message.question();
    let name = Name::<Vec<u8>>::from_str(name).unwrap();
    message.push((name, Rtype::A)).unwrap();
    message.finish()
}

/// A server that has one address for every name.
async fn upstream() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
            let question = Message::from_octets(&buffer[..len]).unwrap();
            let name: Name<Vec<u8>> = question.sole_question().unwrap().qname().to_name();
            let builder = MessageBuilder::new_vec();
            let mut builder = builder.start_answer(&question, Rcode::NOERROR).unwrap();
            let address = A::new(Ipv4Addr::new(192, 0, 2, 1));
            builder
                .push((name, Class::IN, Ttl::from_secs(3600), address))
                .unwrap();
            socket.send_to(&builder.finish(), from).await.unwrap();
        }
    });
    address
}

/// Asks for one name again and again, more slowly than the limit of a client.
fn ask(bencher: divan::Bencher<'_, '_>, settings: Settings, runtime: &Runtime, name: &str) {
    let server = runtime.block_on(Server::new(settings));
    let question = question(name);
    let answer = |client| runtime.block_on(server.answer(client, &question)).unwrap();
    let first = answer(CLIENT);
    assert_eq!(
        Message::from_octets(first)
            .unwrap()
            .header_counts()
            .ancount(),
        1
    );
    let mut number = 0u32;
    // Each client has a limit of its own.
    let clients = || {
        number += 1;
        IpAddr::from(Ipv4Addr::from(0x0A08_0000 + number / 500))
    };
    bencher.with_inputs(clients).bench_local_values(answer);
}

#[divan::bench]
fn cached(bencher: divan::Bencher<'_, '_>) {
    let runtime = runtime();
    let settings = Settings {
        servers: vec![runtime.block_on(upstream())],
        ..Settings::default()
    };
    ask(bencher, settings, &runtime, "www.example.net");
}

#[divan::bench]
fn record(bencher: divan::Bencher<'_, '_>) {
    let settings = Settings {
        records: vec![("filesrv".into(), vec![[192, 168, 77, 10].into()])],
        ..Settings::default()
    };
    ask(bencher, settings, &runtime(), "filesrv");
}
