//! Round trips: written captures are read by pcap-parser and by the stream reader.

use super::pcapng::Writer;
use super::stream::{self, Item};
use super::{Counts, Packet};
use pcap_parser::pcapng::{Block, InterfaceStatisticsBlock, PcapNGOption};
use pcap_parser::traits::PcapReaderIterator;
use pcap_parser::{OptionCode, PcapBlockOwned, PcapError, PcapNGReader};
use proptest::collection::vec;
use proptest::prelude::*;
use std::io::ErrorKind;
use vcgate_core::engine::{Direction, Side};

fn packets() -> impl Strategy<Value = Vec<Packet>> {
    let sides = prop::sample::select(vec![Side::Tunnel, Side::Lan]);
    let directions = prop::sample::select(vec![Direction::ToLan, Direction::ToClient]);
    let packet = (
        sides,
        directions,
        any::<u64>(),
        "\\PC{0,20}",
        vec(any::<u8>(), 0..50),
    );
    let packet = packet.prop_map(|(side, direction, unix_nanos, comment, bytes)| Packet {
        side,
        direction,
        unix_nanos,
        comment,
        bytes,
    });
    vec(packet, 0..8)
}

fn file(packets: &[Packet], dropped: Counts) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes, "vcgate test").unwrap();
    packets.iter().for_each(|p| writer.packet(p).unwrap());
    writer.finish(dropped).unwrap();
    bytes
}

/// Calls `each` for every block but the section's.
fn blocks(file: &[u8], mut each: impl FnMut(&Block<'_>)) {
    let mut reader = PcapNGReader::new(128 << 10, file).unwrap();
    loop {
        match reader.next() {
            Ok((len, block)) => {
                let PcapBlockOwned::NG(block) = block else {
                    panic!("not pcapng")
                };
                each(&block);
                reader.consume(len);
            }
            Err(PcapError::Eof) => return,
            Err(PcapError::Incomplete(_)) => reader.refill().unwrap(),
            Err(error) => panic!("{error:?}"),
        }
    }
}

fn option<'a>(options: &'a [PcapNGOption<'_>], code: OptionCode) -> &'a [u8] {
    let found = options.iter().find(|option| option.code == code);
    found.unwrap().as_bytes().unwrap()
}

fn number(statistics: &InterfaceStatisticsBlock<'_>, code: OptionCode) -> u64 {
    u64::from_le_bytes(option(&statistics.options, code).try_into().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read_back(packets in packets(), tunnel in 0u64..9, lan in any::<u32>()) {
        let mut dropped = Counts { tunnel, lan: lan.into() };
        let (mut read, mut interfaces, mut statistics) = (Vec::new(), Vec::new(), Vec::new());
        blocks(&file(&packets, dropped), |block| match block {
            Block::SectionHeader(section) => {
                let application = option(&section.options, OptionCode::ShbUserAppl);
                assert_eq!(application, b"vcgate test");
                let comment = option(&section.options, OptionCode::Comment);
                assert!(comment.starts_with(b"Packets as vcgate carries them"));
            }
            Block::InterfaceDescription(interface) => {
                assert_eq!((interface.linktype.0, interface.snaplen), (101, 262_144));
                assert_eq!(interface.if_tsresol, 9);
                let name = option(&interface.options, OptionCode::IfName);
                interfaces.push(String::from_utf8(name.to_vec()).unwrap());
            }
            Block::EnhancedPacket(packet) => {
                let side = [Side::Tunnel, Side::Lan][packet.if_id as usize];
                let flags = option(&packet.options, OptionCode(2)).try_into().unwrap();
                let direction = match (u32::from_le_bytes(flags), side) {
                    (1, Side::Tunnel) | (2, Side::Lan) => Direction::ToLan,
                    (2, Side::Tunnel) | (1, Side::Lan) => Direction::ToClient,
                    other => panic!("{other:?}"),
                };
                let comment = option(&packet.options, OptionCode::Comment);
                assert_eq!(packet.caplen, packet.origlen);
                read.push(Packet {
                    side,
                    direction,
                    unix_nanos: u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low),
                    comment: String::from_utf8(comment.to_vec()).unwrap(),
                    bytes: packet.data[..packet.caplen as usize].to_vec(),
                });
            }
            Block::InterfaceStatistics(block) => {
                let received = number(block, OptionCode::IsbIfRecv);
                statistics.push((received, number(block, OptionCode::IsbIfDrop)));
            }
            other => panic!("{other:?}"),
        });
        let mut of = |side| {
            let kept = packets.iter().filter(|packet| packet.side == side).count() as u64;
            (kept + *dropped.of(side), *dropped.of(side))
        };
        prop_assert_eq!(statistics, [of(Side::Tunnel), of(Side::Lan)]);
        prop_assert_eq!(interfaces, ["tunnel", "lan"]);
        prop_assert_eq!(read, packets);
    }

    #[test]
    fn what_is_streamed_is_read_back_and_a_stream_without_its_end_is_not_whole(
        packets in packets(), tunnel in any::<u32>(), cut in any::<usize>(),
    ) {
        let dropped = Counts { tunnel: tunnel.into(), lan: 7 };
        let mut bytes = Vec::new();
        packets.iter().for_each(|packet| stream::encode(packet.clone(), &mut bytes));
        stream::encode_end(dropped, &mut bytes);
        let mut input = &bytes[..];
        for packet in packets {
            prop_assert_eq!(stream::decode(&mut input).unwrap(), Item::Packet(packet));
        }
        prop_assert_eq!(stream::decode(&mut input).unwrap(), Item::End(dropped));

        let mut input = &bytes[..cut % bytes.len()];
        let error = loop {
            match stream::decode(&mut input) {
                Ok(Item::Packet(_)) => {}
                Ok(Item::End(_)) => panic!("an end that was not sent"),
                Err(error) => break error,
            }
        };
        prop_assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    }

    #[test]
    fn no_stream_makes_the_reader_panic(bytes in vec(any::<u8>(), 0..300)) {
        let _ = stream::decode(&mut &bytes[..]);
    }
}

#[test]
fn a_length_that_nobody_sends_is_not_believed() {
    let line = concat!(
        r#"{"packet":{"side":"lan","direction":"to_lan","unix_nanos":1,"comment":"","#,
        r#""length":1048577}}"#,
        "\n"
    );
    let error = stream::decode(&mut line.as_bytes()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData);
}

/// If the comment exceeds an option's length, it is omitted, and the file stays valid.
#[test]
fn a_comment_without_end_is_left_out() {
    let packet = Packet {
        side: Side::Lan,
        direction: Direction::ToLan,
        unix_nanos: 1,
        comment: "x".repeat(1 << 16),
        bytes: vec![0x45; 65_535],
    };
    let mut found = 0;
    blocks(&file(&[packet], Counts::default()), |block| {
        if let Block::EnhancedPacket(packet) = block {
            found += 1;
            assert_eq!(packet.caplen, 65_535);
            let comments = packet.options.iter();
            assert!(
                comments
                    .map(|o| o.code)
                    .all(|code| code != OptionCode::Comment)
            );
        }
    });
    assert_eq!(found, 1);
}
