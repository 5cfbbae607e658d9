//! Every format and link, and files that are cut, damaged or something else.

use super::file::{self, ETHERNET, LINKS, Order, RAW};
use super::network::Network;
use super::{SERVER, diagnosis, log_on, office};
use crate::diagnose::{Diagnosis, End, Error, Kind, Report};

fn small_office() -> Network {
    office("192.168.77.2", SERVER)
}

/// All but what the file itself shows of itself.
fn findings(file: &[u8]) -> Report {
    let mut report = diagnosis(file).report().clone();
    report.capture.links.clear();
    report
}

#[test]
fn every_link_gives_the_same_report() {
    for (address, server) in [
        ("192.168.77.2", SERVER),
        ("2001:db8::2", "[2001:db8::10]:445"),
    ] {
        let net = office(address, server);
        let expected = findings(&file::plain(&net));
        assert_eq!(expected.verdict.kind, Kind::CutOff);
        for link in LINKS {
            if file::carries(link, address.parse().unwrap()) {
                let file = file::pcap(&net, link, Order::Little, false, 262_144);
                assert_eq!(findings(&file), expected, "link {}", link.0);
            }
        }
    }
}

#[test]
fn every_format_gives_the_same_report() {
    let net = small_office();
    let expected = findings(&file::plain(&net));
    for order in [Order::Little, Order::Big] {
        for nanoseconds in [false, true] {
            let file = file::pcap(&net, ETHERNET, order, nanoseconds, 262_144);
            assert_eq!(findings(&file), expected);
        }
        let pcapng = file::pcapng(&net, [ETHERNET, RAW], order);
        assert_eq!(findings(&pcapng), expected);
        assert_eq!(findings(&file::gzip(&pcapng)), expected);
    }
    assert_eq!(findings(&file::gzip(&file::plain(&net))), expected);
}

#[test]
fn says_what_was_read() {
    let net = small_office();
    let pcapng = file::pcapng(&net, [ETHERNET, RAW], Order::Little);
    let capture = diagnosis(&pcapng).report().capture.clone();
    assert_eq!(capture.frames, net.packets.len() as u64);
    assert_eq!(capture.links, ["Ethernet", "raw IP"]);
    assert_eq!(capture.end, End::Whole);
    assert_eq!(
        capture.first.unwrap().to_string(),
        "2023-11-14T22:13:20.001000Z"
    );
}

#[test]
fn a_cut_file_counts_as_far_as_it_goes() {
    let mut net = Network::new();
    log_on(&mut net, "10.0.0.1:1000", SERVER, 0);
    let whole = file::plain(&net);
    let frames = |file: &[u8]| diagnosis(file).report().capture.clone();
    let mut last = 0;
    for len in 24..whole.len().min(1200) {
        let capture = frames(&whole[..len]);
        assert!(capture.frames == last || capture.frames == last + 1);
        last = capture.frames;
        if let End::Cut { at } = capture.end {
            assert!(at < len as u64, "{at} {len}");
        } else {
            assert_eq!(capture.end, End::Whole);
            assert_eq!(
                frames(&[&whole[..len], &[0; 3]].concat()).end,
                End::Cut { at: len as u64 }
            );
        }
    }
    assert!(last > 5);
    let packed = file::gzip(&whole);
    let cut = frames(&packed[..packed.len() / 2]);
    assert!(matches!(cut.end, End::Cut { .. }) && cut.frames < net.packets.len() as u64);
}

#[test]
fn a_damaged_file_counts_as_far_as_it_goes() {
    let net = small_office();
    let (whole, pcapng) = (
        file::plain(&net),
        file::pcapng(&net, [RAW, RAW], Order::Big),
    );
    for file in [whole, pcapng] {
        let at = file.len() as u64;
        // A record of 4 GB, and enough bytes after it that it is not just cut.
        let damaged = [&file[..], &[0xFF; 16], &vec![0; 20 << 20]].concat();
        let capture = diagnosis(&damaged).report().capture.clone();
        assert_eq!(capture.end, End::Damaged { at });
        assert_eq!(capture.frames, net.packets.len() as u64);
    }
    let mut packed = file::gzip(&file::plain(&net));
    let middle = packed.len() / 2;
    packed[middle..middle + 8].fill(0xFF);
    let end = diagnosis(&packed).report().capture.end.clone();
    assert!(
        matches!(end, End::Damaged { .. } | End::Cut { .. }),
        "{end:?}"
    );
}

#[test]
fn what_is_no_capture_is_refused() {
    assert!(matches!(Diagnosis::read(&b""[..]), Err(Error::Empty)));
    for bytes in [
        &b"x"[..],
        b"\x1F\x8B",
        b"hello, I am a text",
        &[0xD4, 0xC3, 0xB2, 0xA1],
    ] {
        assert!(Diagnosis::read(bytes).is_err(), "{bytes:?}");
    }
}

#[test]
fn cut_packets_are_counted_and_read_as_far_as_they_go() {
    let net = small_office();
    // Ethernet 14, IP 20, TCP 20, transport 4, then the VcNumber at 41 and 42.
    let enough = diagnosis(&file::pcap(
        &net,
        ETHERNET,
        Order::Little,
        false,
        14 + 40 + 47,
    ));
    let report = enough.report();
    assert_eq!(report.verdict.kind, Kind::CutOff);
    assert_eq!(
        (report.counts.zeros, report.counts.cut_session_setups),
        (2, 0)
    );
    assert!(report.counts.cut_frames > 0);
    assert_eq!(report.requests[0].native_os, "");
    let short = diagnosis(&file::pcap(
        &net,
        ETHERNET,
        Order::Little,
        false,
        14 + 40 + 46,
    ));
    let report = short.report();
    assert_eq!(report.verdict.kind, Kind::CutShort);
    assert_eq!(
        (report.counts.zeros, report.counts.cut_session_setups),
        (0, 6)
    );
}

#[test]
fn fragments_are_counted() {
    let mut net = small_office();
    for (_, packet) in &mut net.packets {
        packet[6] |= 0x20;
    }
    let diagnosis = diagnosis(&file::plain(&net));
    assert_eq!(
        diagnosis.report().counts.fragments,
        net.packets.len() as u64
    );
}
