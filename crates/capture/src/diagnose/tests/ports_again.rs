//! A client's port that is used again: which SYN begins a connection, and what becomes of the one
//! before.

use super::network::{ACK, Network, RST, SYN, TestConnection};
use super::{SERVER, diagnosis, file, log_on, log_on_again, message, report};

const CLIENT: &str = "10.0.0.1:1000";

/// Another connection between the same ends, of which nothing was sent.
fn another(connection: &TestConnection) -> TestConnection {
    TestConnection {
        seqs: (
            connection.seqs.0 ^ 0x1234_5678,
            connection.seqs.1 ^ 0x8765_4321,
        ),
        ..connection.clone()
    }
}

/// The client has forgotten a connection that the server still has, and begins another one (RFC
/// 9293 section 3.5.1): `resets` are the SYNs after which its RST is captured.
fn reconnect(net: &mut Network, old: &mut TestConnection, resets: &[usize]) -> TestConnection {
    let new = another(old);
    for attempt in 0..=*resets.last().unwrap() {
        let mut syn = new.clone();
        syn.of_client(net, SYN, &[]);
        old.of_server(net, ACK, &[]);
        if resets.contains(&attempt) {
            let seqs = (old.seqs.0, 0);
            let mut reset = TestConnection {
                seqs,
                ..old.clone()
            };
            reset.of_client(net, RST, &[]);
        }
    }
    new
}

#[test]
fn rfc9293_3_5_1_a_connection_begins_at_the_syn_that_the_server_accepts() {
    for was_seen in [true, false] {
        for resets in [&[0][..], &[1], &[0, 1]] {
            let mut net = Network::new();
            let mut old = match was_seen {
                true => log_on(&mut net, CLIENT, SERVER, 1),
                false => TestConnection::old(CLIENT, SERVER),
            };
            let mut new = reconnect(&mut net, &mut old, resets);
            new.shake_hands(&mut net);
            log_on_again(&mut net, &mut new, 0);
            let expected = (1 + u64::from(was_seen), 2);
            let diagnosis = diagnosis(&file::plain(&net));
            let counts = &diagnosis.report().counts;
            assert_eq!((counts.connections, counts.zeros), expected);
            assert_eq!((counts.smb1, counts.endings), (expected.0, 0));
            // It is found again by its own numbers.
            let span = diagnosis.flows.last().unwrap().fingerprint.server.unwrap();
            let first = another(&old).seqs.1;
            assert_eq!(u64::from(new.seqs.1.wrapping_sub(first)), span.len);
            assert_eq!(span.low.0, first);
        }
    }
}

/// RFC 5961 section 4: the server answers it in the name of the connection that there is.
#[test]
fn a_stray_syn_changes_nothing() {
    let mut net = Network::new();
    let mut connection = log_on(&mut net, CLIENT, SERVER, 1);
    another(&connection).of_client(&mut net, SYN, &[]);
    connection.of_server(&mut net, ACK, &[]);
    connection.ask(&mut net, &message::logon(12, 0));
    connection.of_server(&mut net, RST, &[]);
    let counts = report(&net).counts;
    assert_eq!((counts.connections, counts.zeros), (1, 1));
    assert_eq!(counts.endings, 1);
}

#[test]
fn a_refused_syn_may_be_accepted_when_it_comes_again() {
    for was_seen in [true, false] {
        let mut net = Network::new();
        let old = match was_seen {
            true => log_on(&mut net, CLIENT, SERVER, 1),
            false => TestConnection::old(CLIENT, SERVER),
        };
        let mut connection = another(&old);
        let mut refused = connection.clone();
        refused.of_client(&mut net, SYN, &[]);
        refused.of_server(&mut net, RST | ACK, &[]);
        connection.shake_hands(&mut net);
        log_on_again(&mut net, &mut connection, 0);
        let counts = report(&net).counts;
        assert_eq!((counts.zeros, counts.endings), (2, 0));
        assert_eq!(counts.connections, 1 + u64::from(was_seen));
    }
}

#[test]
fn a_connection_begins_too_where_the_servers_syn_was_not_captured() {
    let mut net = Network::new();
    let old = log_on(&mut net, CLIENT, SERVER, 1);
    let mut connection = another(&old);
    connection.shake_hands(&mut net);
    log_on_again(&mut net, &mut connection, 0);
    net.packets.retain(|(_, packet)| packet[33] != SYN | ACK);
    let counts = report(&net).counts;
    assert_eq!((counts.connections, counts.zeros), (2, 2));
}

#[test]
fn what_waits_in_a_connection_counts_when_the_next_one_begins() {
    let mut net = Network::new();
    let mut old = log_on(&mut net, CLIENT, SERVER, 1);
    // After a packet that was not captured.
    old.seqs.0 = old.seqs.0.wrapping_add(10);
    old.ask(&mut net, &message::logon(12, 0));
    let mut connection = another(&old);
    connection.shake_hands(&mut net);
    log_on_again(&mut net, &mut connection, 2);
    let report = report(&net);
    let counts = &report.counts;
    assert_eq!((counts.connections, counts.session_setups), (2, 5));
    assert_eq!((counts.zeros, report.requests.len()), (1, 1));
}
