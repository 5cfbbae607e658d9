//! Forwards added to a configuration and removed from it.

use super::super::{Forward, Port, load};
use super::{appended, extent, parse, tables};
use crate::config::files::Replacement;
use crate::config::problem::{Problem, Problems, Wrong};
use std::path::Path;
use toml_edit::{Item, Table};

/// A forward that was added.
pub struct AddedForward {
    /// The forward.
    pub forward: Forward,
    /// The name of the peer that it leads to.
    pub peer: String,
    /// What about it may not be meant.
    pub warnings: Vec<Problem>,
}

/// Adds a forward to the file.
pub fn add_forward(path: &Path, forward: Forward) -> Result<AddedForward, Problems> {
    let replacement = Replacement::begin(path)?;
    let old_text = load::read(path)?;
    load::parse(&old_text, path)?;
    tables(&parse(&old_text, path)?, "forward").map_err(|wrong| Problems::one(path, wrong))?;
    let new_text = appended(&old_text, &block(&forward));
    let first_line = old_text.lines().count() + 1;
    let loaded =
        load::parse(&new_text, path).map_err(|problems| problems.unplaced(path, first_line))?;
    replacement.commit(&new_text)?;

    let ours = |warning: &Problem| warning.line.is_some_and(|line| line >= first_line);
    let peer = loaded.config.owner(forward.to.ip());
    Ok(AddedForward {
        forward,
        peer: peer.map_or_else(String::new, |peer| peer.name.clone()),
        warnings: loaded.warnings.into_iter().filter(ours).collect(),
    })
}

/// Removes a forward from the file, with the comment right above it.
pub fn remove_forward(path: &Path, port: Port) -> Result<Forward, Problems> {
    let fault = |wrong| Problems::one(path, wrong);
    let replacement = Replacement::begin(path)?;
    let old_text = load::read(path)?;
    let forwards = load::parse(&old_text, path)?.config.forwards;
    let Some(at) = forwards.iter().position(|f| f.port() == port) else {
        let what = format!("LAN port {port} is not forwarded");
        let remedy = match forwards.is_empty() {
            true => "there is no forward".to_owned(),
            false => format!("there are {}", list(&forwards)),
        };
        return Err(fault(Wrong::new(what, remedy)));
    };
    let document = parse(&old_text, path)?;
    // The file was in order, so each section has become one forward.
    let sections = tables(&document, "forward").map_err(fault)?;
    let range = sections.get(at).map(|table| extent(table, &old_text));
    let forward = forwards[at];
    let mut new_text = old_text;
    new_text.replace_range(range.unwrap_or_default(), "");
    load::parse(&new_text, path)?;
    replacement.commit(&new_text)?;
    Ok(forward)
}

fn block(forward: &Forward) -> String {
    let mut table = Table::new();
    let set = |table: &mut Table, key, value: Item| drop(table.insert(key, value));
    set(
        &mut table,
        "lan_port",
        toml_edit::value(i64::from(forward.lan_port)),
    );
    set(&mut table, "to", toml_edit::value(forward.to.to_string()));
    set(
        &mut table,
        "proto",
        toml_edit::value(forward.proto.to_string()),
    );
    format!("[[forward]]\n{table}")
}

fn list(forwards: &[Forward]) -> String {
    let ports: Vec<String> = forwards.iter().map(|f| f.port().to_string()).collect();
    ports.join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::{ANNA, BERT, folder, peer};
    use super::super::remove_peer;
    use super::*;
    use crate::config::{Transport, target};
    use std::fs;

    fn forward(proto: Transport, lan_port: u16, to: &str) -> Forward {
        Forward {
            proto,
            lan_port,
            to: target(to).unwrap(),
        }
    }

    fn file(dir: &tempfile::TempDir) -> std::path::PathBuf {
        let path = dir.path().join("vcgate.toml");
        let anna = peer("anna", ANNA, "allowed_ips = [\"10.8.0.11/32\"]");
        let site = peer(
            "site",
            BERT,
            "allowed_ips = [\"10.8.0.12/32\", \"10.20.0.0/16\"]",
        );
        fs::write(&path, format!("# by hand\n{anna}{site}")).unwrap();
        path
    }

    fn said<T>(result: Result<T, Problems>, path: &Path) -> String {
        let text = result.err().expect("refused").to_string();
        text.replace(&path.display().to_string(), "FILE")
    }

    #[test]
    fn what_is_added_is_removed_to_the_byte() {
        let dir = folder();
        let path = file(&dir);
        let before = fs::read_to_string(&path).unwrap();
        let web = forward(Transport::Tcp, 8443, "10.8.0.11:443");
        let added = add_forward(&path, web).unwrap();
        assert_eq!((added.peer.as_str(), added.warnings), ("anna", vec![]));
        let block = "\n[[forward]]\nlan_port = 8443\nto = \"10.8.0.11:443\"\nproto = \"tcp\"\n";
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            format!("{before}{block}")
        );
        let phone = forward(Transport::Udp, 8443, "10.20.3.4:5060");
        assert_eq!(add_forward(&path, phone).unwrap().peer, "site");
        assert_eq!(load::load(&path).unwrap().config.forwards, [web, phone]);
        assert_eq!(remove_forward(&path, web.port()).unwrap(), web);
        assert_eq!(load::load(&path).unwrap().config.forwards, [phone]);
        assert_eq!(remove_forward(&path, phone.port()).unwrap(), phone);
        assert_eq!(fs::read_to_string(&path).unwrap(), before);
    }

    #[test]
    fn refusals_have_remedies_and_change_nothing() {
        let dir = folder();
        let path = file(&dir);
        let web = forward(Transport::Tcp, 8443, "10.8.0.11:443");
        add_forward(&path, web).unwrap();
        let before = fs::read_to_string(&path).unwrap();
        for (forward, expected) in [
            (
                forward(Transport::Tcp, 8443, "10.8.0.12:443"),
                "FILE: LAN port tcp/8443 is forwarded in line 12 too; choose another lan_port",
            ),
            (
                forward(Transport::Tcp, 8444, "10.8.0.11:443"),
                "FILE: forward tcp/8444: 10.8.0.11:443 has a LAN port in line 13 already; \
                 one is enough: it is seen by that port only",
            ),
            (
                forward(Transport::Tcp, 8444, "10.8.0.13:443"),
                "FILE: forward tcp/8444: 10.8.0.13 is in no peer's allowed_ips; forward to an \
                 address of a client, or add it to the client's allowed_ips",
            ),
            (
                forward(Transport::Udp, 51820, "10.8.0.11:443"),
                "FILE: forward udp/51820: clients' tunnels come in by this port; choose another \
                 lan_port, or give lan.address an address of its own",
            ),
        ] {
            assert_eq!(said(add_forward(&path, forward), &path), expected);
        }
        let port = "udp/8443".parse().unwrap();
        assert_eq!(
            said(remove_forward(&path, port), &path),
            "FILE: LAN port udp/8443 is not forwarded; there are tcp/8443"
        );
        assert_eq!(
            said(remove_peer(&path, "anna"), &path),
            "FILE: LAN port tcp/8443 is forwarded to \"anna\"; \
             \"vcgate forward remove tcp/8443\" first"
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), before);
    }
}
