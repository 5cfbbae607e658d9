//! Handshakes that both sides begin after a silence, such as a pause of the gateway's machine.

use super::net::*;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// Both sides send for `age`; then the gateway's machine stops for `pause`, while the client sends
/// every `gap`. Returns the network when the machine has just resumed.
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
    // A packet that gets no answer because of the pause.
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

/// Asserts that packets flow both ways after a single handshake.
fn assert_connected(net: &mut Net, case: &str) {
    net.run(SECOND);
    let inboxes = [0, 1].map(|node: usize| net.nodes[node].inbox.len());
    net.send(CLIENT);
    net.send(GATEWAY);
    net.run(SECOND);
    let came = [0, 1].map(|node: usize| net.nodes[node].inbox.len());
    assert_eq!(came, inboxes.map(|before| before + 1), "{case}");
    assert_eq!(
        net.count(CLIENT, 1),
        0,
        "{case}: the client had to try again"
    );
}

#[test]
fn after_a_pause_of_the_machine_the_first_handshake_succeeds() {
    for age in [3, 40, 100] {
        for gap in [1, 7, 25] {
            for pause in (20..=105).step_by(5) {
                let case = format!("age {age}, gap {gap}, pause {pause}");
                assert_connected(
                    &mut paused(age * SECOND, gap * SECOND, pause * SECOND),
                    &case,
                );
            }
        }
    }
}

#[test]
fn a_client_that_gave_up_during_the_pause_reconnects_with_its_next_packet() {
    // It retries for 90 s (REKEY_ATTEMPT_TIME).
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
fn after_a_pause_that_the_peer_ends_the_gateway_starts_no_handshake() {
    let net = paused(3 * SECOND, SECOND, 60 * SECOND);
    assert_eq!(net.count(GATEWAY, 1), 0);
    assert!(net.count(GATEWAY, 2) > 0);
}
