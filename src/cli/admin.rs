//! `vcgate admin password`, and `vcgate peer link`: what the administration page needs.

use super::output;
use super::qr;
use console::Term;
use std::io::{self, BufRead, IsTerminal, Read};
use std::path::Path;
use std::time::Duration;
use vcgate::config;
use vcgate::control::client::Client;
use vcgate::password;
use zeroize::Zeroizing;

/// Reads a password and prints its hash.
pub(super) fn hash() -> anyhow::Result<()> {
    let password = read()?;
    let hash = password::hash(&password)?;
    if io::stderr().is_terminal() {
        eprintln!("Write under [admin]: password_hash = \"…\", with this hash:");
    }
    output::print(&format!("{hash}\n"))
}

/// Reads a password twice from a terminal, without showing it, or else one line.
fn read() -> anyhow::Result<Zeroizing<String>> {
    if !io::stdin().is_terminal() {
        let mut line = Zeroizing::new(String::new());
        let limit = password::MAX_PASSWORD_LEN as u64 + 2;
        io::stdin().lock().take(limit).read_line(&mut line)?;
        return Ok(Zeroizing::new(
            line.trim_end_matches(['\r', '\n']).to_owned(),
        ));
    }
    let term = Term::stderr();
    let ask = |text: &str| {
        term.write_str(text)?;
        term.read_secure_line().map(Zeroizing::new)
    };
    let password = ask("Password: ")?;
    anyhow::ensure!(
        password == ask("Again: ")?,
        "the two passwords differ; try again"
    );
    Ok(password)
}

/// Makes a link by which a client's file can be fetched once.
pub(super) fn link(
    path: &Path,
    name: &str,
    valid: Duration,
    show_qr: bool,
    json: bool,
) -> anyhow::Result<()> {
    let config = config::load(path)?.config;
    let link = Client::of(&config)?.peer_link(name, valid)?;
    if show_qr {
        return output::print(&qr::render(&link.url)?);
    }
    output::report(&link, json, |link| {
        format!("{}\nIt works once, until {}.\n", link.url, link.expires)
    })
}
