//! The control socket's protocol: one JSON request on one line, one JSON answer on one line.
//!
//! These are types only, without I/O.

use super::endpoint::{PeerChange, Refusal};
use crate::config::Forward;
use crate::keys::PublicKey;
use serde::{Deserialize, Serialize};
use vcgate_core::engine::Filter;

/// Maximum length of a request in bytes, including its line end.
pub(super) const MAX_REQUEST: u64 = 64 * 1024;

/// Maximum length of an answer in bytes, including its line end: every flow of a full table.
pub(super) const MAX_ANSWER: u64 = 256 * 1024 * 1024;

/// `{"command":"status"}`, `{"command":"peer_remove","peer":"anna"}`, …
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Request {
    Status,
    Flows,
    Smb,
    Timeline {
        from: u64,
    },
    Capture {
        filter: Filter,
    },
    Reload,
    LogLevel {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        level: Option<String>,
    },
    PeerAdd {
        peer: PeerChange,
    },
    PeerRemove {
        peer: String,
    },
    PeerSet {
        before: PublicKey,
        peer: PeerChange,
    },
    PeerLink {
        peer: String,
        valid_seconds: u64,
    },
    ForwardAdd {
        forward: Forward,
    },
    ForwardRemove {
        forward: Forward,
    },
}

/// `{"ok":…}` or `{"error":{"message":…,"remedy":…}}`
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer<T> {
    Ok(T),
    Error(Refusal),
}

impl<T> From<Result<T, Refusal>> for Answer<T> {
    fn from(result: Result<T, Refusal>) -> Self {
        result.map_or_else(Self::Error, Self::Ok)
    }
}

/// Encodes the result of a request as a line.
pub(super) fn to_line<T: Serialize>(result: Result<T, Refusal>) -> Vec<u8> {
    let mut line = serde_json::to_vec(&Answer::from(result)).unwrap_or_else(|error| {
        tracing::error!(%error, "cannot encode a report as JSON");
        br#"{"error":{"message":"cannot encode the report as JSON"}}"#.to_vec()
    });
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_json_objects() {
        let text = r#"{"command":"peer_remove","peer":"anna"}"#;
        let request = Request::PeerRemove {
            peer: "anna".into(),
        };
        assert_eq!(serde_json::to_string(&request).unwrap(), text);
        assert_eq!(serde_json::from_str::<Request>(text).unwrap(), request);

        let text = concat!(
            r#"{"command":"peer_add","peer":{"name":"anna","#,
            r#""public_key":"hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=","#,
            r#""allowed_ips":["10.8.0.11/32"],"persistent_keepalive":25,"#,
            r#""reach":["192.168.77.10/32:445"]}}"#,
        );
        let request: Request = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&request).unwrap(), text);
        // An empty list of rules allows nothing, a missing one allows all of the LAN.
        let nothing = text.replace(r#""192.168.77.10/32:445""#, "");
        let request: Request = serde_json::from_str(&nothing).unwrap();
        assert_eq!(serde_json::to_string(&request).unwrap(), nothing);

        for text in [
            r#"{"command":"capture","filter":{"peer":"anna","side":"lan"}}"#,
            r#"{"command":"log_level"}"#,
            r#"{"command":"peer_link","peer":"anna","valid_seconds":3600}"#,
            r#"{"command":"log_level","level":"debug"}"#,
            r#"{"command":"forward_add","forward":{"proto":"tcp","lan_port":8443,"to":"10.8.0.11:443"}}"#,
            r#"{"command":"peer_set","before":"hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=","peer":{"name":"anna","public_key":"hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=","allowed_ips":[],"lifecycle":{"disabled":true,"expires":"2023-11-14T22:13:20Z","note":"x","groups":["staff"]}}}"#,
            r#"{"command":"forward_remove","forward":{"proto":"udp","lan_port":5060,"to":"[fd00::2]:5060"}}"#,
        ] {
            let request: Request = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&request).unwrap(), text);
        }

        for text in [
            "",
            "{}",
            r#"{"command":"reboot"}"#,
            r#"{"command":"peer_remove"}"#,
            r#"{"command":"peer_add","peer":{"name":"anna","public_key":"AA=="}}"#,
        ] {
            assert!(serde_json::from_str::<Request>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn answers_are_json_objects() {
        let refused = Answer::<()>::from(Err(Refusal {
            message: "no".into(),
            remedy: Some("ask again".into()),
        }));
        assert_eq!(
            serde_json::to_string(&refused).unwrap(),
            r#"{"error":{"message":"no","remedy":"ask again"}}"#
        );
        assert_eq!(
            serde_json::to_string(&Answer::from(Ok(()))).unwrap(),
            r#"{"ok":null}"#
        );
        assert_eq!(
            serde_json::from_str::<Answer<()>>(r#"{"ok":null}"#).unwrap(),
            Answer::Ok(())
        );
    }
}
