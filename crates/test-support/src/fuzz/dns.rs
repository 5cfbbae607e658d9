//! Reads answers of hosts that may be hostile: to a NetBIOS query, and of a DNS server to a client's
//! question. What a client gets is a whole message with its question's identifier.

use super::input::Input;
use vcgate_core::netmap::{NetMap, PrefixMap};
use vcgate_dns::nbns::{NetbiosName, Suffix};
use vcgate_dns::relay;

/// Takes the sizes of a question and of an answer from the input, and both.
pub fn dns(input: &[u8]) {
    let mut input = Input::new(input);
    let id = input.u16();
    let len = usize::from(input.u8());
    let question = input.bytes(len);
    let answer = input.bytes(usize::MAX);

    let name = NetbiosName::new("filesrv", Suffix::FileServer).expect("a name");
    if let Some(addresses) = name.answer(id, answer) {
        assert!(addresses.iter().all(|address| !address.is_unspecified()));
        assert!(addresses.len() * 6 <= answer.len());
    }

    for limit in [512, 65_535] {
        if let Some(reply) = relay(question, answer, &netmap(), limit) {
            assert!((12..=limit).contains(&reply.len()));
            assert_eq!(reply[..2], question[..2], "the identifier");
            assert_eq!(reply[2] & 0x80, 0x80, "an answer");
        }
    }
}

fn netmap() -> NetMap {
    let nets = ["192.168.1.0/24", "10.77.1.0/24"].map(|net| net.parse().expect("a network"));
    let map = PrefixMap::new(nets[0], nets[1]).expect("networks of one length");
    NetMap::new(vec![map]).expect("one prefix")
}
