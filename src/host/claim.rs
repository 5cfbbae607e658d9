//! The LAN addresses that the last run had: a file in the run directory, which is written again
//! while the endpoint runs.
//!
//! RFC 5227 and RFC 4862 probe for an address before it is used, which takes most of the time of a
//! start. An address that this endpoint had, and defended, until moments ago is in use already: a
//! station that takes it must have probed for it in these moments, and is found by probes that are
//! sent while the endpoint runs, as one that takes it later ([`Defence`](super::Defence)). The file
//! does not survive a reboot, and a failure to write it costs only the quick start.

use super::Interface;
use super::undo_log::file_of;
use serde::{Deserialize, Serialize};
use smoltcp::wire::EthernetAddress;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tracing::debug;

/// The time between two records.
pub(super) const RENEW_INTERVAL: Duration = Duration::from_secs(10);
/// Maximum time since the last record: a restart in which the last run was killed.
const MAX_AGE: Duration = Duration::from_secs(30);

/// The addresses of a run and its place on the LAN.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Claim {
    interface: u32,
    station: [u8; 6],
    addresses: Vec<IpAddr>,
}

/// The file of one endpoint.
#[derive(Debug, Clone)]
pub(super) struct ClaimFile(PathBuf);

impl ClaimFile {
    /// Returns the file of an endpoint; it need not exist.
    pub(super) fn of(directory: &Path, endpoint: &str) -> Self {
        Self(file_of(directory, endpoint, "claim"))
    }

    /// Returns the addresses that the last run had on this interface until moments before `now`.
    pub(super) fn recent(&self, lan: &Interface, now: SystemTime) -> Vec<IpAddr> {
        let read = || -> io::Result<(Claim, SystemTime)> {
            let renewed = fs::metadata(&self.0)?.modified()?;
            Ok((serde_json::from_slice(&fs::read(&self.0)?)?, renewed))
        };
        let Ok((claim, renewed)) = read() else {
            return Vec::new();
        };
        // A time after `now` means that the clock was set back: the age is unknown.
        let is_recent = now.duration_since(renewed).is_ok_and(|age| age <= MAX_AGE);
        let is_here =
            claim.interface == lan.index && lan.ethernet == Some(EthernetAddress(claim.station));
        match is_recent && is_here {
            true => claim.addresses,
            false => Vec::new(),
        }
    }

    /// Records that this run has these addresses now.
    pub(super) fn write(&self, lan: &Interface, addresses: &[IpAddr]) {
        let Some(EthernetAddress(station)) = lan.ethernet.filter(|_| !addresses.is_empty()) else {
            let _ = fs::remove_file(&self.0);
            return;
        };
        let claim = Claim {
            interface: lan.index,
            station,
            addresses: addresses.to_vec(),
        };
        let new = self.0.with_extension("claim.new");
        let written = serde_json::to_vec(&claim)
            .map_err(io::Error::from)
            .and_then(|json| fs::write(&new, json))
            .and_then(|()| fs::rename(&new, &self.0));
        self.note(written);
    }

    fn note(&self, result: io::Result<()>) {
        if let Err(error) = result {
            debug!(path = %self.0.display(), %error, "cannot keep the LAN addresses; the next \
                   start probes for them");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lan(index: u32, last: u8) -> Interface {
        Interface {
            index,
            name: "lan".into(),
            up: true,
            mtu: 1500,
            ethernet: Some(EthernetAddress([2, 0, 0, 0, 0, last])),
            addresses: Vec::new(),
        }
    }

    #[test]
    fn addresses_of_the_last_run_are_recent_for_half_a_minute_and_on_the_same_interface() {
        let directory = tempfile::tempdir().unwrap();
        let file = ClaimFile::of(directory.path(), "vcg0");
        let (now, here) = (SystemTime::now(), lan(3, 1));
        let address: IpAddr = "192.168.77.2".parse().unwrap();
        assert!(file.recent(&here, now).is_empty());
        let renew = |at| {
            file.write(&here, &[address]);
            let file = fs::File::options().write(true).open(&file.0);
            file.unwrap().set_modified(at).unwrap();
        };
        renew(now);
        let after = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(file.recent(&here, after(0)), [address]);
        assert_eq!(file.recent(&here, after(30)), [address]);
        assert!(file.recent(&here, after(31)).is_empty());
        assert!(file.recent(&here, now - Duration::from_secs(1)).is_empty());
        assert!(file.recent(&lan(4, 1), now).is_empty());
        assert!(file.recent(&lan(3, 2), now).is_empty());
        renew(after(60));
        assert_eq!(file.recent(&here, after(70)), [address]);
        // An endpoint that shares the machine's own address claims none.
        file.write(&here, &[]);
        assert!(file.recent(&here, now).is_empty());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        fs::write(&file.0, "damaged").unwrap();
        assert!(file.recent(&here, SystemTime::now()).is_empty());
    }
}
