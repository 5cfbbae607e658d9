//! Bulk transfers under loss: the hook must not prevent fast retransmits.

use crate::network::{Family, Faults, Network};
use crate::network_of;
use crate::smb::{NEGOTIATE, SESSION_SETUP_ANDX, message};
use std::time::Duration;
use vcgate_core::smb::Mode;

const WRITE_ANDX: u8 = 0x2F;
const SIZE: usize = 1_000_000;
const SEEDS: std::ops::Range<u64> = 1..7;

/// Makes a logon and a megabyte of messages with this amount of data each.
fn bulk(data: std::ops::Range<usize>) -> Vec<u8> {
    let mut all = [message(NEGOTIATE, 90), message(SESSION_SETUP_ANDX, 60)].concat();
    for i in 0.. {
        if all.len() >= SIZE {
            break;
        }
        all.extend(message(WRITE_ANDX, data.start + i * 37 % data.len()));
    }
    all
}

/// Returns the average transfer time.
fn average_time(stream: &[u8], mode: Mode, loss: f64) -> Duration {
    let each = SEEDS.map(|seed| {
        let mut network = network_of(Family::V4, 1, mode, seed);
        network.faults = Faults {
            loss,
            ..Faults::default()
        };
        transfer(&mut network, stream)
    });
    each.sum::<Duration>() / SEEDS.count() as u32
}

fn transfer(network: &mut Network, stream: &[u8]) -> Duration {
    let far = network.server.listen(445);
    let server = (network.family.server(), 445).into();
    let near = network.clients[0].host.connect(50_000, server);
    let start = network.now;
    let (mut sent, mut got) = (0, 0);
    let done = network.run(Duration::from_secs(600), |net| {
        let socket = net.clients[0].host.tcp(near);
        if socket.may_send() {
            sent += socket.send_slice(&stream[sent..]).unwrap_or(0);
        }
        let socket = net.server.tcp(far);
        while socket.can_recv() {
            got += socket.recv(|data| (data.len(), data.len())).unwrap_or(0);
        }
        got == stream.len()
    });
    assert!(done, "all data arrives");
    network.now - start
}

/// Prints loss, message sizes and times, and compares the times.
fn compare_with_and_without_hook(loss: f64) {
    for data in [200..1000, 4000..4001, 16_000..16_001, 60_000..60_001] {
        let stream = bulk(data.clone());
        let [off, assign] = [Mode::Off, Mode::Assign].map(|mode| average_time(&stream, mode, loss));
        println!("{loss} {data:?}: {off:?} without, {assign:?} with");
        assert!(assign < off * 3 / 2, "{data:?}: {off:?} and {assign:?}");
    }
}

#[test]
fn a_loss_of_0_2_percent_costs_little_more_than_without_the_hook() {
    compare_with_and_without_hook(0.002);
}

#[test]
fn a_loss_of_1_percent_costs_little_more_than_without_the_hook() {
    compare_with_and_without_hook(0.01);
}
