//! Forwards added to a configuration and removed from it.

use super::super::{Forward, Port, load};
use super::{appended, extent, new_warnings, parse, tables};
use crate::config::files::Replacement;
use crate::config::problem::{Diagnostic, Problem, Problems};
use std::net::SocketAddr;
use std::path::Path;
use toml_edit::{Item, Table};

/// A forward that was added.
pub struct AddedForward {
    /// The forward.
    pub forward: Forward,
    /// The name of the peer that it leads to.
    pub peer: String,
    /// Warnings that are new with this forward.
    pub warnings: Vec<Problem>,
}

/// Adds a forward to the file.
///
/// # Errors
/// If the configuration or the forward is invalid, or the file cannot be written.
pub fn add_forward(path: &Path, forward: Forward) -> Result<AddedForward, Problems> {
    let replacement = Replacement::begin(path)?;
    let old_text = load::read(path, load::MISSING)?;
    let old = load::parse(&old_text, path)?;
    tables(&parse(&old_text, path)?, "forward").map_err(|wrong| Problems::one(path, wrong))?;
    let new_text = appended(&old_text, &block(&forward));
    let first_line = old_text.lines().count() + 1;
    let loaded =
        load::parse(&new_text, path).map_err(|problems| problems.unplaced(path, first_line))?;
    replacement.commit(&new_text)?;

    let peer = loaded.config.owner(forward.to.ip());
    Ok(AddedForward {
        // With the LAN address of its peer.
        forward: loaded.config.forwards.last().copied().unwrap_or(forward),
        peer: peer.map_or_else(String::new, |peer| peer.name.clone()),
        warnings: new_warnings(loaded.warnings, &old.warnings),
    })
}

/// Removes the forwards of a port from the file, or only the one `to` an address, each with the comment
/// directly above it. A port can have one forward in each address family.
///
/// # Errors
/// If there is no such forward, or the file cannot be written.
pub fn remove_forwards(
    path: &Path,
    port: Port,
    to: Option<SocketAddr>,
) -> Result<Vec<Forward>, Problems> {
    let fault = |wrong| Problems::one(path, wrong);
    let replacement = Replacement::begin(path)?;
    let old_text = load::read(path, load::MISSING)?;
    let forwards = load::parse(&old_text, path)?.config.forwards;
    let is_it = |f: &Forward| f.port() == port && to.is_none_or(|to| f.to == to);
    if !forwards.iter().any(is_it) {
        let what = match to {
            None => format!("LAN port {port} is not forwarded"),
            Some(to) => format!("LAN port {port} is not forwarded to {to}"),
        };
        let remedy = match forwards.is_empty() {
            true => "there is no forward".to_owned(),
            false => format!("there are {}", list(&forwards)),
        };
        return Err(fault(Diagnostic::new(what, remedy)));
    }
    let document = parse(&old_text, path)?;
    // The file is valid, so each section is one forward.
    let sections = tables(&document, "forward").map_err(fault)?;
    let mut new_text = old_text.clone();
    // The last one first, so that the offsets of the others stay valid.
    for (forward, section) in forwards.iter().zip(&sections).rev() {
        if is_it(forward) {
            new_text.replace_range(extent(section, &old_text), "");
        }
    }
    load::parse(&new_text, path)?;
    replacement.commit(&new_text)?;
    Ok(forwards.into_iter().filter(is_it).collect())
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
            lan_address: None,
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
    fn removing_a_forward_restores_the_file() {
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
        assert_eq!(remove_forwards(&path, web.port(), None).unwrap(), [web]);
        assert_eq!(load::load(&path).unwrap().config.forwards, [phone]);
        assert_eq!(remove_forwards(&path, phone.port(), None).unwrap(), [phone]);
        assert_eq!(fs::read_to_string(&path).unwrap(), before);
    }

    #[test]
    fn a_port_of_both_families_is_removed_in_one_or_in_both() {
        let dir = folder();
        let path = dir.path().join("vcgate.toml");
        let anna = peer(
            "anna",
            ANNA,
            "allowed_ips = [\"10.8.0.11/32\", \"fd00:8::11/128\"]",
        );
        let tunnel = "[interface]\naddress = [\"10.8.0.1/24\", \"fd00:8::1/64\"]\n";
        fs::write(&path, format!("{tunnel}{anna}")).unwrap();
        let before = fs::read_to_string(&path).unwrap();
        let four = forward(Transport::Tcp, 8443, "10.8.0.11:443");
        let six = forward(Transport::Tcp, 8443, "[fd00:8::11]:443");
        let add = || {
            assert_eq!(add_forward(&path, four).unwrap().peer, "anna");
            assert_eq!(add_forward(&path, six).unwrap().peer, "anna");
        };
        add();
        let port = four.port();
        assert_eq!(remove_forwards(&path, port, None).unwrap(), [four, six]);
        assert_eq!(fs::read_to_string(&path).unwrap(), before);
        add();
        let only = |to| remove_forwards(&path, port, Some(to));
        assert_eq!(only(four.to).unwrap(), [four]);
        assert_eq!(
            said(only(four.to), &path),
            "FILE: LAN port tcp/8443 is not forwarded to 10.8.0.11:443; there are tcp/8443"
        );
        assert_eq!(load::load(&path).unwrap().config.forwards, [six]);
        assert_eq!(only(six.to).unwrap(), [six]);
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
            said(remove_forwards(&path, port, None), &path),
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
