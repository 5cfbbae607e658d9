//! Replaces the files of clients whose contents would differ now, as after a change of `[lan]` or of a
//! group. A file that was edited by hand stays as it is.

use super::super::client::{Client, client_at};
use super::super::client_files::{self, is_as_written};
use super::super::files::replace_private;
use super::super::problem::{Diagnostic, Problem, Problems};
use super::super::{Config, HostNetwork, MissingInfo, Peer};
use crate::keys::PublicKey;
use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use zeroize::Zeroizing;

/// Files of clients that were replaced.
#[derive(Debug, Default)]
pub struct Refreshed {
    /// The files.
    pub written: Vec<PathBuf>,
    /// Files that would differ, but stay as they are.
    pub warnings: Vec<Problem>,
}

/// Replaces each client's file that would differ now.
///
/// # Errors
/// If a file cannot be written. Files before it are replaced then.
pub fn refresh_clients(config: &Config, host: &HostNetwork) -> Result<Refreshed, Problems> {
    let peers: HashMap<PublicKey, &Peer> = { config.peers.iter() }
        .map(|peer| (peer.public_key, peer))
        .collect();
    let mut refreshed = Refreshed::default();
    for (file, key) in client_files::configurations(config.dir()) {
        let Some(peer) = peers.get(&key) else {
            continue;
        };
        let new = client_at(config, peer, file, host);
        // Without the address of the endpoint it could not be left out of AllowedIPs.
        if new.warnings.is_empty() && !new.lacks.contains(&MissingInfo::Endpoint) {
            refresh(&new, None, &mut refreshed)?;
        }
    }
    Ok(refreshed)
}

/// Replaces a client's file if it differs and was not edited; `before` is a text that it has if it was
/// not, beside those with a checksum.
pub(super) fn refresh(
    new: &Client,
    before: Option<&str>,
    refreshed: &mut Refreshed,
) -> Result<(), Problems> {
    let Ok(text) = fs::read_to_string(&new.path).map(Zeroizing::new) else {
        return Ok(());
    };
    if *text == *new.text {
        return Ok(());
    }
    if is_as_written(&text) || before == Some(text.as_str()) {
        replace_private(&new.path, &new.text)?;
        refreshed.written.push(new.path.clone());
        return Ok(());
    }
    let what = "it was edited, so it stays as it is";
    let remedy = format!("see \"vcgate peer show {}\" for what differs now", new.name);
    refreshed.warnings.push(Problem {
        file: new.path.clone(),
        line: None,
        wrong: Diagnostic::new(what, remedy),
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{NewPeer, add_peer};
    use super::*;
    use crate::config::load;
    use crate::config::tests::folder;
    use std::fs::{read_to_string, write};

    #[test]
    fn files_follow_a_group_and_the_lan_unless_they_were_edited() {
        let dir = folder();
        let path = dir.path().join("vcgate.toml");
        let host = HostNetwork::of(&["192.168.77.5/24"]);
        write(
            &path,
            "[[group]]\nname = \"staff\"\nreach = [\"192.168.77.10:445\"]\n",
        )
        .unwrap();
        for name in ["anna", "bert"] {
            let new = NewPeer {
                name: name.to_owned(),
                ..NewPeer::default()
            };
            add_peer(&path, &new, &host).unwrap();
        }
        let file = |name: &str| dir.path().join(format!("clients/{name}.conf"));
        let allowed = |name: &str| {
            let text = read_to_string(file(name)).unwrap();
            let line = text.lines().find(|line| line.starts_with("AllowedIPs"));
            line.unwrap().to_owned()
        };
        let refresh = || refresh_clients(&load(&path).unwrap().config, &host).unwrap();
        assert!(refresh().written.is_empty());
        let text = read_to_string(&path).unwrap();
        let text = text.replace(
            "[\"10.8.0.2/32\"]",
            "[\"10.8.0.2/32\"]\ngroups = [\"staff\"]",
        );
        write(&path, text).unwrap();
        let refreshed = refresh();
        assert_eq!(
            (refreshed.written, refreshed.warnings),
            (vec![file("anna")], Vec::new())
        );
        assert_eq!(
            allowed("anna"),
            "AllowedIPs = 10.8.0.1/32, 192.168.77.10/32"
        );
        assert!(is_as_written(&read_to_string(file("anna")).unwrap()));

        let edited = read_to_string(file("bert"))
            .unwrap()
            .replace("MTU = 1420", "MTU = 1300");
        write(file("bert"), &edited).unwrap();
        let text = read_to_string(&path).unwrap().replace("10:445", "11:445");
        write(&path, "[client]\nkeepalive = 0\n".to_owned() + &text).unwrap();
        let refreshed = refresh();
        assert_eq!(refreshed.written, [file("anna")]);
        assert_eq!(
            allowed("anna"),
            "AllowedIPs = 10.8.0.1/32, 192.168.77.11/32"
        );
        let warning = refreshed.warnings[0].to_string();
        assert!(warning.contains("bert.conf: it was edited"), "{warning}");
        assert_eq!(read_to_string(file("bert")).unwrap(), edited);

        let text = read_to_string(&path).unwrap();
        let text = format!("[interface]\nendpoint = \"vpn.example.com\"\n{text}");
        write(&path, text.replace("11:445", "12:445")).unwrap();
        assert!(refresh().written.is_empty(), "the name was not resolved");
    }
}
