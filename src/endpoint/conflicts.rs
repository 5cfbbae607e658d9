//! Conflicts about the LAN addresses: logged, and stored for `vcgate status`.

use crate::control::report::Conflict;
use crate::control::time::Timestamp;
use crate::host::{Defence, FurtherAddresses, Sighting};
use std::cell::RefCell;
use std::convert::Infallible;
use std::future::pending;
use std::net::IpAddr;
use std::time::SystemTime;

/// A conflict is reported for this long after its last packet, in seconds.
const CONFLICT_HOLD_TIME: u64 = 600;
/// The minimum time between two warnings of one conflict, in seconds.
const WARN_INTERVAL: u64 = 60;
/// The maximum number of conflicts that are kept: stations can be made up.
const MAX_CONFLICTS: usize = 16;

/// The conflicts that are known, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Conflicts(Vec<Known>);

#[derive(Debug)]
struct Known {
    conflict: Conflict,
    warned: u64,
}

impl Conflicts {
    /// Notes a packet of another station. Returns whether a warning is due.
    fn note(&mut self, sighting: Sighting, now: u64) -> bool {
        let Sighting { address, station } = sighting;
        let station = station.to_string();
        let is_it = |c: &Conflict| c.address == address && c.station == station;
        if let Some(known) = self.0.iter_mut().find(|known| is_it(&known.conflict)) {
            known.conflict.last_seen = Timestamp(now);
            known.conflict.packets += 1;
            let is_due = now.saturating_sub(known.warned) >= WARN_INTERVAL;
            if is_due {
                known.warned = now;
            }
            return is_due;
        }
        if self.0.len() == MAX_CONFLICTS {
            self.0.remove(0);
        }
        self.0.push(Known {
            conflict: Conflict {
                address,
                station,
                first_seen: Timestamp(now),
                last_seen: Timestamp(now),
                packets: 1,
            },
            warned: now,
        });
        true
    }

    /// Returns the recent conflicts.
    pub(super) fn list(&self, now: Timestamp) -> Vec<Conflict> {
        let conflicts = self.0.iter().map(|known| &known.conflict);
        let recent = |c: &&Conflict| now.0.saturating_sub(c.last_seen.0) < CONFLICT_HOLD_TIME;
        conflicts.filter(recent).cloned().collect()
    }
}

/// Defends the LAN addresses and notes conflicts, until the endpoint stops.
pub(super) async fn defend(
    conflicts: &RefCell<Conflicts>,
    further: &FurtherAddresses,
    mut defence: Defence,
) -> Infallible {
    loop {
        let sighting = match defence.next().await {
            Ok(sighting) => sighting,
            Err(error) => {
                tracing::warn!(
                    "cannot listen for conflicts about the LAN address: {error}; restart \
                     vcgate when the LAN interface is there again"
                );
                return pending().await;
            }
        };
        let now = Timestamp::from(SystemTime::now());
        if conflicts.borrow_mut().note(sighting, now.0) {
            let Sighting { address, station } = sighting;
            let further = further.list();
            let owner = further.iter().find(|f| address == f.address);
            let (effect, remedy) = advice(address, owner.and_then(|f| f.peer.as_deref()));
            tracing::warn!(
                "another station on the LAN, {station}, uses the LAN address {address}: \
                 {effect}; give it another address, or {remedy}"
            );
        }
    }
}

/// Returns the effect of a conflict, and the key that avoids it: that of the only peer that uses the
/// address, or of all clients.
fn advice(address: IpAddr, peer: Option<&str>) -> (String, String) {
    let key = match address {
        IpAddr::V4(_) => "lan.address",
        IpAddr::V6(_) => "lan.address6",
    };
    match peer {
        Some(peer) => (
            format!("{peer} loses connections"),
            format!("set lan_address of peer {peer:?} to a free one"),
        ),
        None => (
            "clients lose connections".into(),
            format!("set {key} to a free one"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_names_the_key_of_the_address() {
        let remedy = |address: &str, peer| advice(address.parse().unwrap(), peer).1;
        assert_eq!(
            remedy("192.168.77.3", None),
            "set lan.address to a free one"
        );
        assert_eq!(remedy("fd00:77::2", None), "set lan.address6 to a free one");
        assert_eq!(
            remedy("192.168.77.50", Some("anna")),
            "set lan_address of peer \"anna\" to a free one"
        );
    }
    use smoltcp::wire::EthernetAddress;

    #[test]
    fn a_conflict_is_warned_of_once_a_minute_and_kept_for_ten() {
        let mut conflicts = Conflicts::default();
        let sighting = |last| Sighting {
            address: "192.168.77.2".parse().unwrap(),
            station: EthernetAddress([2, 0, 0, 0, 0, last]),
        };
        assert!(conflicts.note(sighting(1), 1000));
        assert!(!conflicts.note(sighting(1), 1059));
        assert!(conflicts.note(sighting(2), 1059));
        assert!(conflicts.note(sighting(1), 1060));
        assert!(!conflicts.note(sighting(1), 1119));
        let packets = |conflicts: &Conflicts, now| -> Vec<u64> {
            let listed = conflicts.list(Timestamp(now));
            listed.iter().map(|conflict| conflict.packets).collect()
        };
        assert_eq!(packets(&conflicts, 1119), [4, 1]);
        assert_eq!(packets(&conflicts, 1660), [4]);
        assert_eq!(packets(&conflicts, 1719), [0; 0]);
        for last in 0..100 {
            conflicts.note(sighting(last), 2000);
        }
        assert_eq!(conflicts.list(Timestamp(2000)).len(), MAX_CONFLICTS);
    }
}
