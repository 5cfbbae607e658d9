//! Converts the configuration of another endpoint to one of vcgate and key files: a wg-quick file,
//! also of pivpn, or the data of wg-easy and wg-portal.

mod source;
mod sqlite;
#[cfg(test)]
mod tests;
mod wg_easy;
mod wg_portal;

use super::DomainName;
use super::client_files::private_key_path;
use super::files::Created;
use super::hook;
use super::load::{self, SERVER_KEY};
use super::problem::{Diagnostic, Problem, Problems};
use super::value::{self, MAX_NAME_LEN};
use super::wg_quick::{Entry, Section};
use crate::keys::{KeyFile, PresharedKey, PrivateKey};
use crate::time::Timestamp;
use ipnet::IpNet;
use std::collections::HashSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use toml_edit::{Array, Table};

/// The sections of a file, and what its format does not contain.
type Source = (Vec<Section>, Vec<Problem>);

/// The result of an import.
pub struct Imported {
    /// The new configuration.
    pub config: PathBuf,
    /// All files, in the order they were made.
    pub created: Vec<PathBuf>,
    /// The names of the peers.
    pub peers: Vec<String>,
    /// Lines that were not imported, and warnings about the new configuration.
    pub warnings: Vec<Problem>,
}

/// Converts the file `from` to the configuration `to` and key files beside it: all files or none. It
/// never overwrites a file. `from` is a wg-quick file, `wg0.json` or `wg-easy.db` of wg-easy, or the
/// SQLite database of wg-portal; `interface` is one of those that a database has.
///
/// # Errors
/// Access rules in the file's hooks are errors, one for each command; with `force` they are ignored
/// with a warning.
pub fn import(
    from: &Path,
    interface: Option<&str>,
    to: &Path,
    force: bool,
) -> Result<Imported, Problems> {
    let (sections, gaps) = source::read(from, interface)?;
    let mut import = Import {
        from,
        dir: to.parent().unwrap_or(Path::new("")),
        created: Created::default(),
        warnings: gaps,
        rules: Vec::new(),
        names: HashSet::new(),
        peers: Vec::new(),
    };
    let mut interfaces = sections.iter().filter(|section| !section.is_peer);
    let (Some(interface), None) = (interfaces.next(), interfaces.next()) else {
        let wrong = Diagnostic::new(
            "the file does not have exactly one [Interface]",
            "name the file that wg-quick uses",
        );
        return Err(Problems::one(from, wrong));
    };
    import.created.private_dir(&import.dir.join("keys"))?;
    let mut text = import.interface(interface)?;
    for section in sections.iter().filter(|section| section.is_peer) {
        text += &import.peer(section)?;
    }
    let mut warnings = import.warnings;
    if !force && !import.rules.is_empty() {
        return Err(Problems {
            errors: import.rules,
            warnings,
        });
    }
    warnings.extend(import.rules);
    let loaded = load::parse(&text, to).map_err(|problems| problems.unplaced(from, 0))?;
    warnings.extend(loaded.warnings);
    import.created.public_file(to, &text)?;
    import.created.sync()?;
    Ok(Imported {
        config: to.to_owned(),
        created: import.created.finish(),
        peers: import.peers,
        warnings,
    })
}

/// Maximum length of a name that is made from a comment, in bytes; a number may follow it.
const MAX_NAME_STEM_LEN: usize = MAX_NAME_LEN - 16;

struct Import<'p> {
    from: &'p Path,
    dir: &'p Path,
    created: Created,
    warnings: Vec<Problem>,
    /// Commands of hooks that are or may contain access rules.
    rules: Vec<Problem>,
    /// Names that are in use.
    names: HashSet<String>,
    peers: Vec<String>,
}

impl Import<'_> {
    fn interface(&mut self, section: &Section) -> Result<String, Problems> {
        let addresses = self.nets(section, "address")?;
        let hooks = ["preup", "postup", "predown", "postdown"];
        let known = match section.record {
            None => &["privatekey", "listenport", "address", "mtu", "dns"][..],
            Some(_) => &[
                "privatekey",
                "listenport",
                "address",
                "mtu",
                "dns",
                "endpoint",
            ],
        };
        for entry in &section.entries {
            let key = entry.key.as_str();
            let findings = match hooks.contains(&key) {
                true => hook::findings(&entry.value, &addresses),
                false => Vec::new(),
            };
            if findings.is_empty() && !known.contains(&key) {
                self.warn_ignored(section, entry);
            }
            let wrongs = findings.iter().map(|finding| finding.wrong(&entry.written));
            let rules = wrongs.map(|wrong| self.problem(section, entry, wrong));
            self.rules.extend(rules.collect::<Vec<_>>());
        }
        let Some(entry) = section.value("privatekey") else {
            let wrong = Diagnostic::new(
                "[Interface] has no PrivateKey",
                "add the endpoint's private key",
            );
            return Err(self.fault(section, section.line, wrong));
        };
        let key = PrivateKey::from_base64(&entry.value).map_err(|error| {
            let remedy = "name the file that wg-quick uses";
            self.fault(
                section,
                entry.line,
                Diagnostic::new(format!("PrivateKey: {error}"), remedy),
            )
        })?;
        let file = self.dir.join(SERVER_KEY);
        self.created.key(&file, |file| key.write_new(file))?;

        let mut table = Table::new();
        table.insert("private_key_file", toml_edit::value(SERVER_KEY));
        for (key, ours) in [("listenport", "listen_port"), ("mtu", "mtu")] {
            if let Some(entry) = section.value(key) {
                let number: i64 = entry.value.parse().map_err(|_| {
                    let what = format!("{:?} is not a number", entry.value);
                    let wrong = Diagnostic::new(what, "write a whole number");
                    self.fault(section, entry.line, wrong)
                })?;
                table.insert(ours, toml_edit::value(number));
            }
        }
        if !addresses.is_empty() {
            table.insert("address", toml_edit::value(array(&addresses)));
        }
        if let (Some(_), Some(entry)) = (&section.record, section.value("endpoint")) {
            table.insert("endpoint", toml_edit::value(entry.value.as_str()));
        }
        // The kernel's endpoint is open to clients, unless access rules say otherwise.
        if self.rules.is_empty() {
            let services: Array = ["tcp", "udp"].into_iter().collect();
            table.insert("services", toml_edit::value(services));
        }
        let from = self.from.display();
        let dns = self.dns(section, &addresses)?;
        Ok(format!(
            "# Imported from {from}.\n\n[interface]\n{table}{dns}"
        ))
    }

    /// Returns the section for `DNS`, which has servers and search domains in one list. A server at
    /// the endpoint's `own` address is one of this host, which is the default.
    fn dns(&self, section: &Section, own: &[IpNet]) -> Result<String, Problems> {
        let (mut servers, mut search) = (Array::new(), Array::new());
        for (line, text) in section.values("dns") {
            if let Ok(server) = text.parse::<IpAddr>() {
                if own.iter().all(|net| net.addr() != server) {
                    servers.push(text);
                }
                continue;
            }
            let name = DomainName::new(text);
            let name = name.map_err(|wrong| self.fault(section, line, wrong.within("DNS")))?;
            search.push(name.as_str());
        }
        let mut table = Table::new();
        for (key, list) in [("servers", servers), ("search", search)] {
            if !list.is_empty() {
                table.insert(key, toml_edit::value(list));
            }
        }
        Ok(match table.is_empty() {
            true => String::new(),
            false => format!("\n[dns]\n{table}"),
        })
    }

    fn peer(&mut self, section: &Section) -> Result<String, Problems> {
        let known = [
            "publickey",
            "presharedkey",
            "allowedips",
            "persistentkeepalive",
        ];
        let entries = section.entries.iter();
        for entry in entries.filter(|entry| !known.contains(&entry.key.as_str())) {
            self.warn_ignored(section, entry);
        }
        let Some(entry) = section.value("publickey") else {
            let wrong = Diagnostic::new("[Peer] has no PublicKey", "add it, or take the peer out");
            return Err(self.fault(section, section.line, wrong));
        };
        let public_key = value::public_key(&entry.value)
            .map_err(|wrong| self.fault(section, entry.line, wrong.within("PublicKey")))?;
        let name = self.name(section.comment.as_deref());
        let mut table = Table::new();
        table.insert("name", toml_edit::value(name.as_str()));
        table.insert("public_key", toml_edit::value(public_key.to_string()));
        if let Some(entry) = section.value("presharedkey") {
            let key = PresharedKey::from_base64(&entry.value).map_err(|error| {
                let what = format!("PresharedKey: {error}");
                let wrong = Diagnostic::new(what, "copy it whole, or take it out");
                self.fault(section, entry.line, wrong)
            })?;
            let file = format!("keys/{name}.psk");
            self.created
                .key(&self.dir.join(&file), |file| key.write_new(file))?;
            table.insert("preshared_key_file", toml_edit::value(file));
        }
        table.insert(
            "allowed_ips",
            toml_edit::value(array(&self.nets(section, "allowedips")?)),
        );
        if let Some(entry) = section.value("persistentkeepalive") {
            let off = entry.value.eq_ignore_ascii_case("off");
            let seconds = if off {
                Some(0)
            } else {
                entry.value.parse::<i64>().ok()
            };
            let seconds = seconds.ok_or_else(|| {
                let what = format!("PersistentKeepalive: {:?} is not a number", entry.value);
                let wrong = Diagnostic::new(what, "write seconds, or off");
                self.fault(section, entry.line, wrong)
            })?;
            table.insert("persistent_keepalive", toml_edit::value(seconds));
        }
        self.state(section, &name, &mut table)?;
        self.peers.push(name);
        Ok(format!("\n[[peer]]\n{table}"))
    }

    /// Adds what a wg-quick file does not have: whether and how long the peer may connect, a note, and
    /// the client's own key.
    fn state(&mut self, section: &Section, name: &str, table: &mut Table) -> Result<(), Problems> {
        if section.disabled {
            table.insert("disabled", toml_edit::value(true));
        }
        let Some(record) = &section.record else {
            return Ok(());
        };
        if let Some(text) = &record.expires {
            let time: Timestamp = text.parse().map_err(|_| {
                let what = format!("its expiry {text:?} is not a time");
                let remedy = "correct it in the old endpoint, or remove it";
                self.fault(section, 0, Diagnostic::new(what, remedy))
            })?;
            let time = time.to_string().parse::<toml_edit::Datetime>();
            table.insert("expires", toml_edit::value(time.expect("RFC 3339")));
        }
        if let Some(note) = record.note.as_deref().filter(|note| !note.is_empty()) {
            table.insert("note", toml_edit::value(note));
        }
        if let Some(text) = record.private_key.as_deref().filter(|key| !key.is_empty()) {
            let key = PrivateKey::from_base64(text).map_err(|error| {
                let what = format!("its private key: {error}");
                let remedy = "correct it in the old endpoint, or remove it";
                self.fault(section, 0, Diagnostic::new(what, remedy))
            })?;
            self.created
                .key(&private_key_path(self.dir, name), |file| {
                    key.write_new(file)
                })?;
        }
        Ok(())
    }

    fn nets(&self, section: &Section, key: &str) -> Result<Vec<IpNet>, Problems> {
        let nets = section.values(key).map(|(line, text)| {
            value::prefix(text).map_err(|wrong| self.fault(section, line, wrong))
        });
        nets.collect()
    }

    /// Makes a valid and free name from a comment.
    fn name(&mut self, comment: Option<&str>) -> String {
        let said = comment.unwrap_or_default();
        // Common installers write "Client anna", "Name = anna" or "begin anna".
        let said = [
            "begin_peer ",
            "begin ",
            "client: ",
            "client ",
            "name = ",
            "name: ",
            "friendly_name=",
        ]
        .iter()
        .find_map(|lead| {
            let (start, rest) = said.split_at_checked(lead.len())?;
            start.eq_ignore_ascii_case(lead).then_some(rest)
        })
        .unwrap_or(said);
        let mut plain = String::new();
        for c in said.chars().skip_while(|c| !c.is_alphanumeric()) {
            let c = match c.is_alphanumeric() || "_.@".contains(c) {
                true => c,
                false => '-',
            };
            if plain.len() + c.len_utf8() > MAX_NAME_STEM_LEN {
                break;
            }
            if c != '-' || !plain.ends_with('-') {
                plain.push(c);
            }
        }
        let plain = plain.trim_end_matches('-');
        let plain = if plain.is_empty() { "peer" } else { plain };
        let mut name = plain.to_owned();
        let mut number = 1;
        while !self.names.insert(name.clone()) {
            number += 1;
            name = format!("{plain}-{number}");
        }
        name
    }

    /// Warns of a line that has no equivalent.
    fn warn_ignored(&mut self, section: &Section, entry: &Entry) {
        let what = format!("{} is not imported", entry.written);
        let warning = self.problem(section, entry, Diagnostic::new(what, remedy(entry)));
        self.warnings.push(warning);
    }

    fn problem(&self, section: &Section, entry: &Entry, wrong: Diagnostic) -> Problem {
        let (line, wrong) = placed(section, entry.line, wrong);
        Problem {
            file: self.from.to_owned(),
            line,
            wrong,
        }
    }

    fn fault(&self, section: &Section, line: usize, wrong: Diagnostic) -> Problems {
        let (line, wrong) = placed(section, line, wrong);
        Problems::at(self.from, line, wrong)
    }
}

/// Returns the place of a problem: the line, or for a database the record, which the cause then names.
fn placed(section: &Section, line: usize, wrong: Diagnostic) -> (Option<usize>, Diagnostic) {
    match &section.record {
        Some(record) if !record.place.is_empty() => (None, wrong.within(&record.place)),
        _ => (Some(line), wrong),
    }
}

fn array(nets: &[IpNet]) -> Array {
    nets.iter().map(IpNet::to_string).collect()
}

/// Returns the remedy for a key that has no equivalent.
fn remedy(entry: &Entry) -> &'static str {
    match entry.key.as_str() {
        "preup" | "postup" | "predown" | "postdown" => {
            "vcgate sets addresses, forwarding and translation itself, and undoes them"
        }
        "endpoint" => "vcgate answers clients at their source addresses",
        "table" | "fwmark" => "vcgate routes nothing but the tunnel's networks to itself",
        _ => "it has no equivalent; check whether you need it",
    }
}
