//! Recognizes the format of the file to import, and reads its sections.

use super::{Source, sqlite, wg_easy, wg_portal};
use crate::config::load;
use crate::config::problem::{Diagnostic, Problems};
use crate::config::wg_quick::{self, Record, Section};
use crate::keys::PrivateKey;
use std::fs;
use std::path::Path;
use zeroize::Zeroizing;

/// The remedy for a missing file.
const MISSING: &str = "name the file that the other endpoint uses, as /etc/wireguard/wg0.conf";

/// Reads a file of any of the formats. `interface` selects one of those in a database.
pub(super) fn read(from: &Path, interface: Option<&str>) -> Result<Source, Problems> {
    if sqlite::is_database(from) {
        return match sqlite::has_table(from, "clients_table")? {
            true => wg_easy::database(from, interface),
            false => wg_portal::database(from, interface),
        };
    }
    if let Some(name) = interface {
        let what = format!("it has no interface to choose, such as {name:?}");
        let wrong = Diagnostic::new(what, "leave out --interface");
        return Err(Problems::one(from, wrong));
    }
    let text = load::read(from, MISSING)?;
    if text.trim_start().starts_with('{') {
        return wg_easy::json(&text, from);
    }
    let mut sections = wg_quick::parse(&text, from)?;
    for section in sections.iter_mut().filter(|section| section.is_peer) {
        section.record = pivpn_key(from, section);
    }
    Ok((sections, Vec::new()))
}

/// Finds the private key of a client that pivpn made: `keys/NAME_priv` beside the file.
fn pivpn_key(from: &Path, section: &Section) -> Option<Record> {
    let name = section.comment.as_deref()?.strip_prefix("begin ")?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._@-".contains(c);
    if !name.chars().all(is_plain) {
        return None;
    }
    let file = from.parent()?.join("keys").join(format!("{name}_priv"));
    let text = Zeroizing::new(fs::read_to_string(file).ok()?);
    let key = PrivateKey::from_base64(text.trim()).ok()?;
    let public = section.value("publickey")?;
    (key.public_key().to_string() == public.value).then(|| Record {
        private_key: Some(key.to_base64().to_string()),
        ..Record::default()
    })
}
