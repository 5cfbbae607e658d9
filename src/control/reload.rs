//! The result of `vcgate reload` and SIGHUP as data: the JSON that `--json` prints.
//!
//! Names are stable, as those of the reports.

use crate::config::{self, Forward, Problems};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};

/// The result of reading the configuration again: `vcgate reload`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reload {
    /// The file that was read.
    pub file: PathBuf,
    /// The changes that were applied or refused.
    pub changes: Vec<Reloaded>,
    /// Keys whose changes take effect when the endpoint starts the next time.
    pub at_next_start: Vec<String>,
    /// The problems of the file. With errors, nothing was changed.
    #[serde(flatten)]
    pub problems: Problems,
}

impl Reload {
    /// Makes an empty result for this file.
    pub fn of(file: &Path) -> Self {
        Self {
            file: file.to_owned(),
            changes: Vec::new(),
            at_next_start: Vec::new(),
            problems: Problems::default(),
        }
    }

    /// Returns a sentence about the keys that take effect at the next start, if there are any.
    pub fn deferred(&self) -> Option<String> {
        let verb = match self.at_next_start.as_slice() {
            [] => return None,
            [_] => "takes",
            [..] => "take",
        };
        let keys = self.at_next_start.join(", ");
        Some(format!("{keys} {verb} effect at the next start"))
    }
}

/// One change of a running endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// The change.
    #[serde(flatten)]
    pub change: Change,
    /// The reason if it was refused.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub refused: Option<String>,
}

/// The kinds of changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
#[allow(missing_docs)] // the names say it
pub enum Change {
    PeerAdded { peer: String },
    PeerRemoved { peer: String },
    PeerChanged { peer: String, keys: Vec<String> },
    PeerExpired { peer: String },
    ForwardAdded { forward: Forward },
    ForwardRemoved { forward: Forward },
    KeyChanged { key: String },
}

impl fmt::Display for Reloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.change {
            Change::PeerAdded { peer } => write!(f, "peer {peer}: added")?,
            Change::PeerRemoved { peer } => write!(f, "peer {peer}: removed")?,
            Change::PeerExpired { peer } => write!(f, "peer {peer}: expired")?,
            Change::PeerChanged { peer, keys } => {
                write!(f, "peer {peer}: changed {}", keys.join(", "))?;
            }
            Change::ForwardAdded { forward } => {
                write!(f, "forward {} to {}: added", forward.port(), forward.to)?;
            }
            Change::ForwardRemoved { forward } => {
                write!(f, "forward {} to {}: removed", forward.port(), forward.to)?;
            }
            Change::KeyChanged { key } => write!(f, "{key}: changed")?,
        }
        match &self.refused {
            Some(why) => write!(f, ", but refused: {why}"),
            None => Ok(()),
        }
    }
}

impl Reload {
    /// Records one change, and why it was refused if it was.
    pub fn note(&mut self, change: &config::Change, refused: Option<String>) {
        let peer = |peer: &config::Peer| peer.name.clone();
        let change = match change {
            config::Change::PeerAdded(p) => Change::PeerAdded { peer: peer(p) },
            config::Change::PeerRemoved(p) => Change::PeerRemoved { peer: peer(p) },
            config::Change::PeerExpired(p) => Change::PeerExpired { peer: peer(p) },
            config::Change::PeerChanged(p, keys) => Change::PeerChanged {
                peer: peer(p),
                keys: keys.iter().map(ToString::to_string).collect(),
            },
            config::Change::ForwardAdded(forward) => Change::ForwardAdded { forward: *forward },
            config::Change::ForwardRemoved(forward) => Change::ForwardRemoved { forward: *forward },
            config::Change::LanPool(_) => Change::KeyChanged {
                key: "lan.address".to_owned(),
            },
            config::Change::Key(key) => Change::KeyChanged {
                key: key.name.to_owned(),
            },
            config::Change::AtNextStart(key) => {
                return self.at_next_start.push(key.name.to_owned());
            }
        };
        self.changes.push(Reloaded { change, refused });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scripts rely on these names.
    #[test]
    fn json_names_are_stable() {
        let forward = Forward {
            proto: config::Transport::Tcp,
            lan_port: 8443,
            to: "10.8.0.2:443".parse().unwrap(),
            lan_address: None,
        };
        let mut reload = Reload {
            file: "/etc/vcgate/vcgate.toml".into(),
            changes: vec![Reloaded {
                change: Change::PeerChanged {
                    peer: "anna".into(),
                    keys: vec!["name".into(), "reach".into()],
                },
                refused: None,
            }],
            at_next_start: Vec::new(),
            problems: Problems::default(),
        };
        let key = |name| config::KeyChange { name, values: None };
        let refused = Some("the port is taken".to_owned());
        reload.note(&config::Change::ForwardAdded(forward), refused);
        reload.note(&config::Change::Key(key("interface.on_deny")), None);
        reload.note(&config::Change::AtNextStart(key("interface.mtu")), None);
        let text = concat!(
            r#"{"file":"/etc/vcgate/vcgate.toml","changes":["#,
            r#"{"change":"peer_changed","peer":"anna","keys":["name","reach"]},"#,
            r#"{"change":"forward_added","forward":{"proto":"tcp","lan_port":8443,"#,
            r#""to":"10.8.0.2:443"},"refused":"the port is taken"},"#,
            r#"{"change":"key_changed","key":"interface.on_deny"}],"#,
            r#""at_next_start":["interface.mtu"],"errors":[],"warnings":[]}"#,
        );
        assert_eq!(serde_json::to_string(&reload).unwrap(), text);
        assert_eq!(serde_json::from_str::<Reload>(text).unwrap(), reload);

        let lines: Vec<_> = reload.changes.iter().map(ToString::to_string).collect();
        let expected = [
            "peer anna: changed name, reach",
            "forward tcp/8443 to 10.8.0.2:443: added, but refused: the port is taken",
            "interface.on_deny: changed",
        ];
        assert_eq!(lines, expected);
        let deferred = "interface.mtu takes effect at the next start";
        assert_eq!(reload.deferred().as_deref(), Some(deferred));
    }
}
