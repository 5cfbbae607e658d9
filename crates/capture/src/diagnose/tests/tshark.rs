//! tshark as the oracle: the same session setups with VcNumber 0, in the same frames.

use super::file::{self, LINKS, Order};
use super::message;
use super::network::{Network, RST, TestConnection};
use super::{SERVER, diagnosis, log_on, log_on_again, office};
use std::fs;
use std::process::Command;

/// The frames in which tshark sees one; `None` where it is not installed and need not be.
fn frames(file: &[u8]) -> Option<Vec<u64>> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("capture");
    fs::write(&path, file).unwrap();
    let filter = "smb.cmd==0x73 && smb.flags.response==0 && smb.vc==0";
    let mut tshark = Command::new("tshark");
    tshark.arg("-r").arg(&path).args(["-Y", filter]);
    tshark.args(["-T", "fields", "-e", "frame.number"]);
    let output = match tshark.output() {
        Ok(output) => output,
        Err(_) if std::env::var_os("VCGATE_NO_ROOT").is_some() => {
            eprintln!("VCGATE_NO_ROOT is set and tshark is not installed: nothing to compare with");
            return None;
        }
        Err(error) => panic!("tshark: {error}; install it, or set VCGATE_NO_ROOT=1"),
    };
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    Some(text.lines().map(|number| number.parse().unwrap()).collect())
}

#[track_caller]
fn assert_agrees(file: &[u8], least: usize) {
    let diagnosis = diagnosis(file);
    let ours: Vec<_> = diagnosis
        .report()
        .requests
        .iter()
        .map(|r| r.frame)
        .collect();
    assert!(ours.len() >= least, "{ours:?}");
    if let Some(theirs) = frames(file) {
        assert_eq!(ours, theirs);
    }
}

#[test]
fn agrees_on_every_link_and_format() {
    let net = office("192.168.77.2", SERVER);
    let carried: Vec<_> = LINKS.into_iter().filter(|link| link.0 != 229).collect();
    for two in carried.chunks(2) {
        let links = [two[0], *two.last().unwrap_or(&two[0])];
        assert_agrees(&file::pcapng(&net, links, Order::Little), 2);
    }
    let big = file::pcap(&net, file::ETHERNET, Order::Big, true, 262_144);
    assert_agrees(&file::gzip(&big), 2);
}

#[test]
fn agrees_on_streams_in_pieces() {
    let mut net = Network::new();
    for (port, words) in [(1000, 12), (1001, 13), (1002, 10)] {
        let mut connection = TestConnection::open(&mut net, &format!("10.0.0.1:{port}"), SERVER);
        connection.ask(&mut net, &message::negotiate());
        connection.answer(&mut net, &message::negotiated());
        let logon = message::logon(words, 0);
        // A first segment of one byte makes tshark lose track.
        for cut in [4, 45, 46, 47, logon.len() - 1] {
            let again = connection.clone();
            connection.ask(&mut net, &logon[..cut]);
            again.clone().ask(&mut net, &logon[..cut]);
            connection.ask(&mut net, &logon[cut..]);
            connection.answer(&mut net, &message::challenge());
        }
        connection.ask(&mut net, &message::write());
        connection.ask(&mut net, &message::logon(words, 1));
    }
    assert_agrees(&file::plain(&net), 15);
}

#[test]
fn agrees_on_captures_that_begin_in_mid_stream() {
    let mut net = Network::new();
    let mut connection = TestConnection::old("10.0.0.1:1000", SERVER);
    log_on_again(&mut net, &mut connection, 0);
    connection.of_server(&mut net, RST, &[]);
    log_on(&mut net, "10.0.0.2:1000", "192.168.77.10:139", 0);
    assert_agrees(&file::plain(&net), 4);
}

#[test]
fn agrees_on_cut_packets() {
    let net = office("192.168.77.2", SERVER);
    let file = file::pcap(&net, file::ETHERNET, Order::Little, false, 110);
    assert_agrees(&file, 2);
}
