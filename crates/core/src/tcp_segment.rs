//! TCP segments without data that vcgate itself sends: resets, acknowledgements and probes. It only
//! builds them; the callers choose the sequence numbers.

use crate::smb::Blocks;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpProtocol, IpRepr, TcpControl, TcpPacket, TcpRepr, TcpTimestampRepr};
use std::net::SocketAddr;
use vcgate_wire::tcp::{SeqNumber, TcpTimestamps};

/// The usual default of hosts.
const HOP_LIMIT: u8 = 64;
/// A window for segments whose window is ignored: resets, and probes below the receive window.
pub(crate) const ANY_WINDOW: u16 = u16::MAX;

/// Returns the sequence numbers that an end may expect next: the one after all that it has
/// acknowledged, and the one after all that was sent to it.
pub(crate) fn candidates(
    expected: Option<SeqNumber>,
    next: Option<SeqNumber>,
) -> impl Iterator<Item = SeqNumber> {
    let other = next.filter(|next| Some(*next) != expected);
    expected.into_iter().chain(other)
}

/// A TCP segment without data.
pub(crate) struct Segment {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) control: TcpControl,
    pub(crate) seq: SeqNumber,
    pub(crate) ack: Option<SeqNumber>,
    pub(crate) window: u16,
    /// `None` for resets, which need none (RFC 7323 section 3.2).
    pub(crate) timestamps: Option<TcpTimestamps>,
    pub(crate) blocks: Blocks,
}

impl Segment {
    /// Returns a reset.
    pub(crate) fn reset(
        from: SocketAddr,
        to: SocketAddr,
        seq: SeqNumber,
        ack: Option<SeqNumber>,
    ) -> Self {
        Self {
            from,
            to,
            control: TcpControl::Rst,
            seq,
            ack,
            window: ANY_WINDOW,
            timestamps: None,
            blocks: Blocks::default(),
        }
    }

    /// Builds the IP packet; `None` if the addresses are of two families.
    pub(crate) fn packet(&self) -> Option<Vec<u8>> {
        let (src, dst) = (self.from.ip(), self.to.ip());
        if src.is_ipv4() != dst.is_ipv4() {
            return None;
        }
        let tcp = TcpRepr {
            src_port: self.from.port(),
            dst_port: self.to.port(),
            control: self.control,
            seq_number: self.seq.into(),
            ack_number: self.ack.map(Into::into),
            window_len: self.window,
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: self
                .blocks
                .map(|block| block.map(|(start, end)| (start.0, end.0))),
            timestamp: self
                .timestamps
                .map(|timestamps| TcpTimestampRepr::new(timestamps.value, timestamps.echo)),
            payload: &[],
        };
        let len = tcp.buffer_len();
        let ip = IpRepr::new(src.into(), dst.into(), IpProtocol::Tcp, len, HOP_LIMIT);
        let mut packet = vec![0; ip.buffer_len()];
        let checksums = ChecksumCapabilities::default();
        ip.emit(&mut packet, &checksums);
        let mut l4 = TcpPacket::new_unchecked(&mut packet[ip.header_len()..]);
        tcp.emit(&mut l4, &src.into(), &dst.into(), &checksums);
        Some(packet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vcgate_wire::ip::Headers;

    #[test]
    fn a_reset_is_a_complete_packet_with_valid_checksums() {
        for (from, to) in [
            ("192.168.77.2:50000", "192.168.77.10:445"),
            ("[fd00::2]:50000", "[fd00::10]:445"),
        ] {
            let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
            for ack in [None, Some(SeqNumber(0x8000_0000))] {
                let packet = Segment::reset(from, to, SeqNumber(u32::MAX), ack)
                    .packet()
                    .unwrap();
                let headers = Headers::parse(&packet).unwrap();
                assert_eq!((headers.src, headers.dst), (from.ip(), to.ip()));
                assert_eq!(headers.len, packet.len());
                if let Ok(ip) = smoltcp::wire::Ipv4Packet::new_checked(&packet) {
                    assert!(ip.version() != 4 || ip.verify_checksum());
                }
                let tcp = TcpPacket::new_checked(&packet[headers.l4..]).unwrap();
                assert!(tcp.verify_checksum(&from.ip().into(), &to.ip().into()));
                assert_eq!((tcp.src_port(), tcp.dst_port()), (from.port(), to.port()));
                assert_eq!((tcp.rst(), tcp.syn(), tcp.fin()), (true, false, false));
                assert_eq!(SeqNumber::from(tcp.seq_number()), SeqNumber(u32::MAX));
                let got = tcp.ack().then(|| tcp.ack_number().into());
                assert_eq!(got, ack);
                assert!(tcp.payload().is_empty());
            }
        }
    }

    #[test]
    fn there_is_no_segment_between_address_families() {
        let (from, to) = ("192.168.77.2:1".parse(), "[fd00::10]:445".parse());
        let reset = Segment::reset(from.unwrap(), to.unwrap(), SeqNumber(1), None);
        assert_eq!(reset.packet(), None);
    }

    #[test]
    fn an_end_that_may_expect_two_numbers_is_reset_at_both() {
        let all = |a: Option<u32>, b: Option<u32>| -> Vec<u32> {
            let numbers = candidates(a.map(SeqNumber), b.map(SeqNumber));
            numbers.map(|number| number.0).collect()
        };
        assert_eq!(all(Some(7), Some(7)), [7]);
        assert_eq!(all(Some(7), Some(9)), [7, 9]);
        assert_eq!(all(None, Some(9)), [9]);
        assert_eq!(all(None, None), [0; 0]);
    }
}
