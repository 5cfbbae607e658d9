//! NetBIOS name service messages (RFC 1002 section 4.2): the query for a name, and the answers to it.
//! They have the format of DNS messages, with a name of one label that encodes 16 bytes.
//!
//! It sends nothing and keeps no state.

use domain::base::iana::{Class, Rcode, Rtype};
use domain::base::name::{Label, ToLabelIter};
use domain::base::rdata::UnknownRecordData;
use domain::base::{Message, MessageBuilder, Name, ParsedName};
use std::net::Ipv4Addr;

/// The port of the name service.
pub const PORT: u16 = 137;
/// Maximum length of a name in bytes; the 16th byte is its suffix.
pub const MAX_NAME_LEN: usize = 15;
/// Type NB (section 4.2.1.3).
const NB: Rtype = Rtype::from_int(0x0020);
/// The G bit in the flags of an address: the name of a group (section 4.2.1.3).
const GROUP: u16 = 0x8000;

/// The service of a host that registers a name (KB 163409).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suffix {
    /// A host.
    Workstation = 0x00,
    /// A file server.
    FileServer = 0x20,
}

/// A name in its encoded form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetbiosName([u8; 32]);

impl NetbiosName {
    /// Encodes a label of a domain name. `None` if it is too long or has other characters than names
    /// of hosts.
    pub fn new(label: &str, suffix: Suffix) -> Option<Self> {
        let character = |c: u8| c.is_ascii_alphanumeric() || b"-_".contains(&c);
        if label.is_empty() || label.len() > MAX_NAME_LEN || !label.bytes().all(character) {
            return None;
        }
        let mut name = [b' '; 16];
        for (to, from) in name.iter_mut().zip(label.bytes()) {
            *to = from.to_ascii_uppercase();
        }
        name[MAX_NAME_LEN] = suffix as u8;
        // First-level encoding (RFC 1001 section 14.1): each half of a byte is a letter from A.
        let halves = name.iter().flat_map(|byte| [byte >> 4, byte & 0x0F]);
        let mut encoded = [0; 32];
        for (to, half) in encoded.iter_mut().zip(halves) {
            *to = b'A' + half;
        }
        Some(Self(encoded))
    }

    /// Returns a query for the name: by broadcast, or to a name server.
    pub fn query(&self, id: u16, broadcast: bool) -> Vec<u8> {
        let mut message = MessageBuilder::new_vec();
        let header = message.header_mut();
        header.set_id(id);
        header.set_rd(true);
        // The B bit is where DNS has CD.
        header.set_cd(broadcast);
        let mut message = message.question();
        let label = Label::from_slice(&self.0).expect("32 bytes are a label");
        let name = Name::<Vec<u8>>::from_octets([&[32], label.as_slice(), &[0]].concat());
        let pushed = name.map(|name| message.push((name, NB, Class::IN)));
        debug_assert!(matches!(pushed, Ok(Ok(()))), "a vector has space");
        message.finish()
    }

    /// Reads an answer to the query with this identifier: the addresses of hosts, none if the name
    /// has no host. `None` if it is another message.
    pub fn answer(&self, id: u16, message: &[u8]) -> Option<Vec<Ipv4Addr>> {
        let message = Message::from_octets(message).ok()?;
        let header = message.header();
        if header.id() != id || !header.qr() {
            return None;
        }
        if header.rcode() != Rcode::NOERROR {
            return Some(Vec::new());
        }
        let mut addresses = Vec::new();
        for record in message.answer().ok()? {
            let record = record.ok()?;
            let record = record.to_record::<UnknownRecordData<_>>().ok()??;
            if record.rtype() == NB && self.is(record.owner()) {
                addresses.extend(hosts(record.data().data()));
            }
        }
        Some(addresses)
    }

    fn is(&self, name: &ParsedName<&[u8]>) -> bool {
        let mut labels = name.iter_labels();
        // A scope may follow (RFC 1002 section 4.1).
        labels
            .next()
            .is_some_and(|label| label.as_slice() == self.0)
    }
}

/// Reads the addresses of hosts in the data of a record: entries of flags and an address.
fn hosts(data: &[u8]) -> impl Iterator<Item = Ipv4Addr> {
    data.chunks_exact(6).filter_map(|entry| {
        let flags = u16::from_be_bytes([entry[0], entry[1]]);
        let address = Ipv4Addr::new(entry[2], entry[3], entry[4], entry[5]);
        let usable = !address.is_unspecified() && !address.is_broadcast();
        (flags & GROUP == 0 && usable).then_some(address)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name() -> NetbiosName {
        NetbiosName::new("filesrv", Suffix::FileServer).unwrap()
    }

    /// An answer as RFC 1002 section 4.2.13 draws it.
    fn positive(id: u16, flags: u16, entries: &[(u16, [u8; 4])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [id, flags, 0, 1, 0, 0] {
            bytes.extend(word.to_be_bytes());
        }
        bytes.push(32);
        bytes.extend(name().0);
        bytes.push(0);
        bytes.extend([0, 0x20, 0, 1, 0, 0, 0, 60]);
        bytes.extend((entries.len() as u16 * 6).to_be_bytes());
        for (flags, address) in entries {
            bytes.extend(flags.to_be_bytes());
            bytes.extend(address);
        }
        bytes
    }

    #[test]
    fn a_query_has_the_bytes_of_rfc_1002() {
        let query = name().query(0x1234, true);
        // Identifier; RD and B; one question.
        let head = [0x12, 0x34, 0x01, 0x10, 0, 1, 0, 0, 0, 0, 0, 0, 32];
        assert_eq!(query[..13], head);
        // "FILESRV", eight spaces, 0x20.
        assert_eq!(&query[13..45], b"EGEJEMEFFDFCFGCACACACACACACACACA");
        assert_eq!(query[45..], [0, 0, 0x20, 0, 1]);
        assert_eq!(name().query(0x1234, false)[2..4], [0x01, 0x00]);
    }

    #[test]
    fn only_names_of_hosts_are_encoded() {
        for label in ["a", "A-1_b", "fifteen-letters"] {
            assert!(NetbiosName::new(label, Suffix::Workstation).is_some());
        }
        for label in ["", "sixteen-letters-", "a b", "\u{e4}", "*", "a.b"] {
            assert_eq!(NetbiosName::new(label, Suffix::Workstation), None);
        }
    }

    #[test]
    fn hosts_are_read_and_groups_are_not() {
        let host = (0x6000, [192, 168, 77, 10]);
        let answer = |entries: &[_]| name().answer(7, &positive(7, 0x8500, entries));
        assert_eq!(answer(&[host]), Some(vec![Ipv4Addr::new(192, 168, 77, 10)]));
        assert_eq!(answer(&[(0xE000, host.1)]), Some(vec![]));
        assert_eq!(answer(&[(0, [0; 4]), (0, [255; 4])]), Some(vec![]));
        // A negative answer (section 4.2.14): name error.
        assert_eq!(name().answer(7, &positive(7, 0x8503, &[])), Some(vec![]));
    }

    #[test]
    fn other_messages_are_not_answers() {
        let host = (0, [192, 168, 77, 10]);
        assert_eq!(
            name().answer(8, &positive(7, 0x8500, &[host])),
            None,
            "identifier"
        );
        assert_eq!(
            name().answer(7, &positive(7, 0x0500, &[host])),
            None,
            "a query"
        );
        let other = NetbiosName::new("other", Suffix::FileServer).unwrap();
        let answer = other.answer(7, &positive(7, 0x8500, &[host]));
        assert_eq!(answer, Some(vec![]), "another name");
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer_or_none(bytes: Vec<u8>, id: u16) {
            let _ = name().answer(id, &bytes);
        }

        #[test]
        fn damaged_answers_are_an_answer_or_none(
            at in 0usize..60, byte: u8, len in 0usize..80,
        ) {
            let mut bytes = positive(7, 0x8500, &[(0, [192, 168, 77, 10]), (0, [192, 168, 77, 11])]);
            let last = bytes.len() - 1;
            bytes[at.min(last)] = byte;
            bytes.truncate(len);
            let _ = name().answer(7, &bytes);
        }

        #[test]
        fn a_name_is_decoded_by_the_reverse_of_its_encoding(label in "[a-zA-Z0-9_-]{1,15}") {
            let NetbiosName(encoded) = NetbiosName::new(&label, Suffix::Workstation).unwrap();
            let half = |at: usize| encoded[at] - b'A';
            let decoded: Vec<u8> = (0..16).map(|n| half(2 * n) << 4 | half(2 * n + 1)).collect();
            let text = String::from_utf8(decoded[..15].to_vec()).unwrap();
            prop_assert_eq!(text.trim_end(), label.to_ascii_uppercase());
            prop_assert_eq!(decoded[15], 0);
        }
    }
}
