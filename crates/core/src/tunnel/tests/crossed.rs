//! Handshakes that both sides begin after a silence, such as a pause of the gateway's machine.

use super::net::*;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// Both sides send for a while; the gateway's machine stops for `pause`, while the client goes on
/// sending every `gap`. Returns the net right after the machine runs again.
fn paused(age: Duration, gap: Duration, pause: Duration) -> Net {
    let mut net = Net::with(|me, settings| {
        settings.persistent_keepalive = (me == CLIENT).then_some(25);
    });
    net.strict = true;
    let until = net.now + age;
    while net.now < until {
        net.send(CLIENT);
        net.send(GATEWAY);
        net.run(SECOND);
    }
    // A question that the pause leaves without an answer.
    net.send(GATEWAY);
    net.paused = true;
    let until = net.now + pause;
    while net.now < until {
        net.send(CLIENT);
        net.run(gap.min(until - net.now));
    }
    net.heard.clear();
    net.resume();
    net
}

/// Packets go both ways, and it took no second try of a handshake.
fn is_back(net: &mut Net, what: &str) {
    net.run(SECOND);
    let inboxes = [0, 1].map(|node: usize| net.nodes[node].inbox.len());
    net.send(CLIENT);
    net.send(GATEWAY);
    net.run(SECOND);
    let came = [0, 1].map(|node: usize| net.nodes[node].inbox.len());
    assert_eq!(came, inboxes.map(|before| before + 1), "{what}");
    assert_eq!(
        net.count(CLIENT, 1),
        0,
        "{what}: the client had to try again"
    );
}

#[test]
fn after_a_pause_of_the_machine_the_first_handshake_succeeds() {
    for age in [3, 40, 100] {
        for gap in [1, 7, 25] {
            for pause in (20..=105).step_by(5) {
                let what = format!("age {age}, gap {gap}, pause {pause}");
                is_back(
                    &mut paused(age * SECOND, gap * SECOND, pause * SECOND),
                    &what,
                );
            }
        }
    }
}

#[test]
fn a_client_that_gave_up_during_the_pause_is_back_with_its_next_packet() {
    // It tries for 90 s (REKEY_ATTEMPT_TIME).
    for pause in (125..=170).step_by(5) {
        let mut net = paused(3 * SECOND, SECOND, pause * SECOND);
        net.run(SECOND);
        let came = net.nodes[GATEWAY].inbox.len();
        net.send(CLIENT);
        net.run(SECOND);
        assert_eq!(net.nodes[GATEWAY].inbox.len(), came + 1, "pause {pause}");
        assert!(net.count(CLIENT, 1) <= 1, "pause {pause}");
    }
}

#[test]
fn a_pause_that_the_peer_ended_needs_no_handshake_of_ours() {
    let net = paused(3 * SECOND, SECOND, 60 * SECOND);
    assert_eq!(net.count(GATEWAY, 1), 0);
    assert!(net.count(GATEWAY, 2) > 0);
}
