//! `vcgate genkey`, `pubkey` and `genpsk`, with the same output as those of `wg`.

use super::output;
use std::fs::File;
use std::io::{self, BufRead};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use vcgate::keys::{KEY_TEXT_LEN, PresharedKey, PrivateKey};
use zeroize::Zeroizing;

/// Prints a new private key.
pub(super) fn genkey() -> anyhow::Result<()> {
    print_secret(PrivateKey::generate()?.to_base64())
}

/// Prints a new preshared key.
pub(super) fn genpsk() -> anyhow::Result<()> {
    print_secret(PresharedKey::generate()?.to_base64())
}

/// Prints the public key of the private key on stdin.
pub(super) fn pubkey() -> anyhow::Result<()> {
    let key = read_key(io::stdin().lock())?;
    output::print(&format!("{}\n", key.public_key()))
}

/// Reads a key, followed only by white space. The errors are worded as those of `wg`, since scripts
/// match them.
fn read_key(mut input: impl BufRead) -> anyhow::Result<PrivateKey> {
    const NO_KEY: &str = "Key is not the correct length or format";
    let mut text = Zeroizing::new([0; KEY_TEXT_LEN]);
    if let Err(error) = input.read_exact(text.as_mut_slice()) {
        anyhow::ensure!(
            error.kind() == io::ErrorKind::UnexpectedEof,
            "stdin: {error}"
        );
        anyhow::bail!("{NO_KEY}: it has not {KEY_TEXT_LEN} characters");
    }
    for byte in input.bytes() {
        anyhow::ensure!(is_space(byte?), "Trailing characters found after key");
    }
    let text = std::str::from_utf8(text.as_slice()).map_err(|_| anyhow::anyhow!(NO_KEY))?;
    PrivateKey::from_base64(text).map_err(|error| anyhow::anyhow!("{NO_KEY}: {error}"))
}

/// Whether C's `isspace` accepts it; `wg` accepts a zero too.
fn is_space(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0x0B || byte == 0
}

fn print_secret(mut key: Zeroizing<String>) -> anyhow::Result<()> {
    if others_can_read_stdout() {
        let warning = "stdout is a file that others can read; set umask 077 and try again";
        tracing::warn!("{warning}");
    }
    key.push('\n');
    output::print(&key)
}

fn others_can_read_stdout() -> bool {
    let stdout = io::stdout().as_fd().try_clone_to_owned();
    let metadata = stdout.and_then(|fd| File::from(fd).metadata());
    metadata.is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o007 != 0)
}
