//! Limits per peer: sessions and their rate.

use super::*;
use crate::nat::clients::Clients;
use crate::nat::endpoint::Side;
use crate::nat::lan_addresses::LanAddresses;

#[test]
fn rfc6888_req4_rfc6888_req5_sessions_and_their_rate_are_limited_per_peer() {
    let now = Instant::now();
    let limits = Limits {
        sessions: 2,
        ..Limits::default()
    };
    let mut clients = Clients::default();
    let addresses = LanAddresses::new(&settings());
    let insert = |clients: &mut Clients, address: [u8; 4]| {
        let peer = Some(PeerId(address[2].into()));
        (clients.get_or_insert(address.into(), peer, &addresses, now)).unwrap()
    };
    let (a, b) = (
        insert(&mut clients, [10, 8, 0, 1]),
        insert(&mut clients, [10, 8, 1, 1]),
    );
    assert_eq!(insert(&mut clients, [10, 8, 0, 1]), a);
    let same_peer = insert(&mut clients, [10, 8, 0, 2]);
    assert_eq!(clients.admit(a, Side::Inside, &limits, now), Ok(()));
    assert_eq!(clients.admit(same_peer, Side::Inside, &limits, now), Ok(()));
    assert_eq!(
        clients.admit(a, Side::Inside, &limits, now),
        Err(Reason::Sessions)
    );
    assert_eq!(
        clients.admit(same_peer, Side::Inside, &limits, now),
        Err(Reason::Sessions)
    );
    assert_eq!(clients.admit(b, Side::Inside, &limits, now), Ok(()));
    clients.release_session(same_peer);
    clients.remove_if_idle(same_peer);
    assert_eq!(clients.admit(a, Side::Inside, &limits, now), Ok(()));
    let slow = Limits {
        new_sessions: 1,
        ..Limits::default()
    };
    assert_eq!(
        clients.admit(b, Side::Inside, &slow, now),
        Err(Reason::Rate)
    );
    clients.remove_if_idle(a);
    assert_eq!(clients.iter().count(), 2);
    clients.release_session(a);
    clients.release_session(a);
    clients.remove_if_idle(a);
    assert_eq!(clients.iter().count(), 1);
    assert!(!clients.peers.has_clients(PeerId(0)));
    assert!(clients.peers.has_clients(PeerId(1)));
}

#[test]
fn an_address_of_no_peer_gets_no_client_record() {
    let mut clients = Clients::default();
    let (address, addresses) = ("fd00::1".parse().unwrap(), LanAddresses::new(&settings()));
    let client = clients.get_or_insert(address, None, &addresses, Instant::now());
    assert_eq!(client, Err(Reason::NoMapping));
    assert_eq!(clients.iter().count(), 0);
}
