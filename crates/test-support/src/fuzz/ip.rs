//! Parses IP headers and the quotes of ICMP errors.

use vcgate_wire::checksum::Checksum;
use vcgate_wire::icmp::{self, Quote};
use vcgate_wire::ip::Headers;
use vcgate_wire::packet::Packet;

/// Parses the input as an IP packet and as a quote in an ICMP error.
pub fn ip(bytes: &[u8]) {
    if let Ok(quote) = Headers::parse_quote(bytes) {
        assert_eq!(quote.src.is_ipv4(), quote.dst.is_ipv4());
    }
    let mut copy = bytes.to_vec();
    let Ok(packet) = Packet::parse(&mut copy, Checksum::Complete) else {
        return;
    };
    let headers = packet.headers;
    assert!(headers.l4 <= headers.len && headers.len <= bytes.len());
    assert_eq!(headers.l4_len(), headers.len - headers.l4);
    if let Some(fragment) = headers.fragment {
        assert!(fragment.payload_start <= headers.l4 && fragment.offset % 8 == 0);
    }
    let _ = (packet.ports(), icmp::kind(&packet));
    if let Some(quote) = Quote::of(&packet) {
        let _ = (quote.ip(), quote.l4(), quote.ports());
    }
    assert_eq!(packet.to_vec(), bytes[..headers.len]);
}
