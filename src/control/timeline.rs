//! The SMB timeline as data: what `vcgate smb --follow` asks for and prints.
//!
//! Entries are numbered from 1 on. Whoever follows asks for those from a number on, again and
//! again: nothing is kept for him, and what he misses he sees by the numbers.

use super::time::Moment;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// A stretch of the timeline, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeline {
    /// The number of the next entry that there will be.
    pub next: u64,
    /// From the number that was asked for, or the oldest that is kept.
    pub entries: Vec<Entry>,
}

/// Something that happened on a flow to a file server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Counts up by one.
    pub number: u64,
    /// When.
    pub time: Moment,
    /// The peer's name.
    pub peer: String,
    /// The client's end, inside the tunnel.
    pub client: SocketAddr,
    /// The server.
    pub server: SocketAddr,
    /// What happened.
    #[serde(flatten)]
    pub what: EventKind,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventKind {
    /// A SESSION_SETUP_ANDX went by; a logon with extended security takes two or more.
    Logon {
        /// The VcNumber that the client sent.
        vc_sent: u16,
        /// The VcNumber that the server got.
        vc_forwarded: u16,
        /// `preserved`, `rewritten`, `signed`, `observed` or `unread`: the flow is in bypass.
        outcome: String,
        /// `NT LM 0.12` or `LANMAN`; nothing if the server's choice was not seen.
        dialect: Option<String>,
        /// It is part of an exchange of several.
        extended_security: bool,
        /// It carried a signature.
        signed: bool,
        /// What the server offers: `required`, `enabled` or `off`; nothing if it was not seen.
        server_signing: Option<String>,
    },
    /// From here on, signatures cover the session setups of this flow.
    Signed,
    /// From here on, the flow is not read.
    Bypass {
        /// Why.
        reason: String,
    },
    /// The hook reset the connection: too many session setups waited for the server's
    /// acknowledgement.
    Aborted,
    /// The client has begun anew on another flow; what becomes of this one.
    Stale {
        /// `probed`, `alive`, `unknown`, `silent`, `reset` or `observed`.
        fate: String,
        /// The same in words.
        text: String,
    },
    /// The server ended the connection before the client did.
    Closed {
        /// `fin` or `rst`.
        how: String,
        /// Whose logon was the likely cause.
        cause: Option<Cause>,
    },
    /// Within a second after this client's logon, the server dropped several other clients.
    MassDisconnect {
        /// Why the logon was not changed.
        why: String,
    },
}

/// Whose logon may have made a server drop somebody else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// The peer's name.
    pub peer: String,
    /// Its end, inside the tunnel.
    pub client: SocketAddr,
    /// Why the logon was not changed.
    pub why: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names are a promise to scripts.
    #[test]
    fn the_names_in_json_are_these() {
        let entry = |what| Entry {
            number: 7,
            time: Moment(1_700_000_000_123),
            peer: "anna".into(),
            client: "10.8.0.11:49152".parse().unwrap(),
            server: "192.168.77.10:445".parse().unwrap(),
            what,
        };
        let head = concat!(
            r#"{"number":7,"time":"2023-11-14T22:13:20.123Z","peer":"anna","#,
            r#""client":"10.8.0.11:49152","server":"192.168.77.10:445","event":"#
        );
        let cause = Cause {
            peer: "berta".into(),
            client: "10.8.0.12:49152".parse().unwrap(),
            why: "signed".into(),
        };
        for (what, tail) in [
            (
                EventKind::Logon {
                    vc_sent: 0,
                    vc_forwarded: 3,
                    outcome: "rewritten".into(),
                    dialect: Some("NT LM 0.12".into()),
                    extended_security: true,
                    signed: false,
                    server_signing: Some("required".into()),
                },
                concat!(
                    r#""logon","vc_sent":0,"vc_forwarded":3,"outcome":"rewritten","#,
                    r#""dialect":"NT LM 0.12","#,
                    r#""extended_security":true,"signed":false,"server_signing":"required"}"#
                ),
            ),
            (EventKind::Signed, r#""signed"}"#),
            (EventKind::Aborted, r#""aborted"}"#),
            (
                EventKind::Bypass {
                    reason: "smb2".into(),
                },
                r#""bypass","reason":"smb2"}"#,
            ),
            (
                EventKind::Closed {
                    how: "rst".into(),
                    cause: Some(cause),
                },
                concat!(
                    r#""closed","how":"rst","cause":{"peer":"berta","#,
                    r#""client":"10.8.0.12:49152","why":"signed"}}"#
                ),
            ),
        ] {
            let entry = entry(what);
            let text = format!("{head}{tail}");
            assert_eq!(serde_json::to_string(&entry).unwrap(), text);
            assert_eq!(serde_json::from_str::<Entry>(&text).unwrap(), entry);
        }
    }
}
