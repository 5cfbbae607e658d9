//! `[admin]`, the page and API for administrators, and `[metrics]`, the listener for monitoring
//! systems. Both are off unless `listen` is set. It opens no socket.

use super::document::Section;
use super::problem::{Collector, Diagnostic};
use super::value::{self, inner, text};
use crate::keys::{self, KeyFileError};
use crate::password;
use ipnet::IpNet;
use std::fmt;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use toml::Spanned;
use zeroize::Zeroizing;

/// Minimum length of a token in characters: 128 bits in base64.
const MIN_TOKEN_LEN: usize = 22;

/// The settings of the page and API for administrators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// The address and port.
    pub listen: SocketAddr,
    /// The hash of the administrator's password, in PHC string format.
    pub password_hash: Option<String>,
    /// The token of scripts.
    pub token: Option<AdminToken>,
    /// The address of the page for browsers, without a slash at its end.
    pub url: Option<AdminUrl>,
    /// The certificate, without which connections are not encrypted.
    pub tls: Option<TlsFiles>,
    /// A reverse proxy that logs users in.
    pub proxy: Option<ReverseProxy>,
}

/// The token of scripts. `Debug` does not print it.
#[derive(Clone, PartialEq, Eq)]
pub struct AdminToken(pub Zeroizing<String>);

impl fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminToken(…)")
    }
}

/// The address of the page, as `https://vpn.example.com`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminUrl {
    /// The whole address, without a slash at its end.
    pub text: String,
    /// Its host, with the port if it has one.
    pub authority: String,
}

/// The files of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate and its chain, in PEM.
    pub cert: PathBuf,
    /// Its private key, in PEM.
    pub key: PathBuf,
}

/// A reverse proxy that names the user in a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReverseProxy {
    /// The header's name in lower case.
    pub header: String,
    /// The networks of proxies that are believed.
    pub trusted: Vec<IpNet>,
}

/// The settings of the listener for monitoring systems.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metrics {
    /// The address and port.
    pub listen: SocketAddr,
}

/// Reads `[admin]`.
pub(super) fn read(
    mut section: Section<'_, '_>,
    dir: &Path,
    problems: &mut Collector<'_>,
) -> Option<Admin> {
    let listen = section.get("listen", problems, text(listen));
    let password_hash = section.get("password_hash", problems, text(password_hash));
    let token = section.get("token_file", problems, text(|file| token(dir, file)));
    let url = section.get("url", problems, text(url));
    let cert = section.get("cert", problems, text(|file| readable(dir, file)));
    let key = section.get("key", problems, text(|file| private_file(dir, file)));
    let header = section.get("trusted_header", problems, text(header));
    let trusted = section.list("trusted_proxies", problems, text(value::prefix));
    let required = [
        ("cert", "key", cert.is_some(), key.is_some()),
        (
            "trusted_header",
            "trusted_proxies",
            header.is_some(),
            trusted.as_ref().is_some_and(|nets| !nets.is_empty()),
        ),
    ];
    let place = section.offset();
    section.finish(problems);
    for (one, other, has_one, has_other) in required {
        let (present, missing) = match (has_one, has_other) {
            (true, false) => (one, other),
            (false, true) => (other, one),
            _ => continue,
        };
        let what = format!("admin.{present} is set and admin.{missing} is not");
        let remedy = format!("set both, or leave {present} out");
        problems.error(place, Diagnostic::new(what, remedy));
    }
    let admin = Admin {
        listen: listen.as_ref().map(|listen| *listen.get_ref())?,
        password_hash: password_hash.map(Spanned::into_inner),
        token: token.map(Spanned::into_inner),
        url: url.map(Spanned::into_inner),
        tls: cert.zip(key).map(|(cert, key)| TlsFiles {
            cert: cert.into_inner(),
            key: key.into_inner(),
        }),
        proxy: header.zip(trusted).map(|(header, trusted)| ReverseProxy {
            header: header.into_inner(),
            trusted: inner(trusted),
        }),
    };
    let place = listen.map_or(place, |listen| listen.span().start);
    for wrong in unsafe_settings(&admin) {
        problems.error(place, wrong);
    }
    Some(admin)
}

/// Reads `[metrics]`.
pub(super) fn read_metrics(
    mut section: Section<'_, '_>,
    problems: &mut Collector<'_>,
) -> Option<Metrics> {
    let given = section.get("listen", problems, text(listen));
    section.finish(problems);
    let given = given?;
    let (place, listen) = (given.span().start, given.into_inner());
    if !listen.ip().is_loopback() {
        let what = format!("metrics.listen: all who reach {listen} can read the names of peers");
        let remedy = "listen on 127.0.0.1, or let a firewall admit the monitoring system only";
        problems.warning(place, Diagnostic::new(what, remedy));
    }
    Some(Metrics { listen })
}

/// Returns the reasons why a listener would give others control of the endpoint.
fn unsafe_settings(admin: &Admin) -> Vec<Diagnostic> {
    let mut wrong = Vec::new();
    if admin.password_hash.is_none() && admin.token.is_none() && admin.proxy.is_none() {
        wrong.push(Diagnostic::new(
            "admin.listen: there is no login, and a page without one is not served",
            "set password_hash to what \"vcgate admin password\" prints, or token_file",
        ));
    }
    if !admin.listen.ip().is_loopback() && admin.tls.is_none() {
        wrong.push(Diagnostic::new(
            format!(
                "admin.listen: {} is not a loopback address, and passwords would not be encrypted",
                admin.listen
            ),
            "set cert and key, or listen on 127.0.0.1 and use an SSH tunnel or a reverse proxy",
        ));
    }
    wrong
}

fn listen(text: &str) -> Result<SocketAddr, Diagnostic> {
    let parsed = text.parse().ok();
    parsed
        .filter(|address: &SocketAddr| address.port() != 0)
        .ok_or_else(|| {
            let remedy = "write an IP address and a port, as \"127.0.0.1:8480\" or \"[::1]:8480\"";
            Diagnostic::new(format!("{text:?} is not an address to listen on"), remedy)
        })
}

fn password_hash(text: &str) -> Result<String, Diagnostic> {
    match password::is_hash(text) {
        true => Ok(text.to_owned()),
        false => Err(Diagnostic::new(
            "it is not an argon2id hash",
            "write what \"vcgate admin password\" prints",
        )),
    }
}

fn token(dir: &Path, file: &str) -> Result<AdminToken, Diagnostic> {
    let path = dir.join(value::file("admin.token")(file)?);
    let text = keys::read_private(&path).map_err(unreadable)?;
    let is_token = |c: char| c.is_ascii_graphic();
    match text.len() >= MIN_TOKEN_LEN && text.chars().all(is_token) {
        true => Ok(AdminToken(text)),
        false => Err(Diagnostic::new(
            format!("{} does not contain a token", path.display()),
            format!(
                "write one line of at least {MIN_TOKEN_LEN} characters: (umask 077; vcgate genpsk > \
                 {})",
                path.display()
            ),
        )),
    }
}

fn private_file(dir: &Path, file: &str) -> Result<PathBuf, Diagnostic> {
    let path = readable(dir, file)?;
    keys::check_private(&path).map_err(unreadable)?;
    Ok(path)
}

fn unreadable(error: KeyFileError) -> Diagnostic {
    Diagnostic::key_file(&error, "vcgate genpsk")
}

fn readable(dir: &Path, file: &str) -> Result<PathBuf, Diagnostic> {
    let path = dir.join(value::file("admin.pem")(file)?);
    match File::open(&path) {
        Ok(_) => Ok(path),
        Err(error) => Err(Diagnostic::new(
            format!("cannot read {}: {}", path.display(), keys::reason(&error)),
            "name a PEM file that the user of the endpoint can read",
        )),
    }
}

fn url(text: &str) -> Result<AdminUrl, Diagnostic> {
    let text = text.strip_suffix('/').unwrap_or(text);
    let rest = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"));
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-.:[]_".contains(c);
    match rest.filter(|host| !host.is_empty() && host.chars().all(allowed)) {
        Some(authority) => Ok(AdminUrl {
            text: text.to_owned(),
            authority: authority.to_ascii_lowercase(),
        }),
        None => Err(Diagnostic::new(
            format!("{text:?} is not the address of the page"),
            "write it without a path, as \"https://vpn.example.com:8480\"",
        )),
    }
}

fn header(text: &str) -> Result<String, Diagnostic> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-';
    match !text.is_empty() && text.len() <= 64 && text.chars().all(allowed) {
        true => Ok(text.to_ascii_lowercase()),
        false => Err(Diagnostic::new(
            format!("{text:?} is not a header's name"),
            "write the one that the proxy sets, as \"X-Remote-User\"",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, parse};
    use crate::keys::{KeyFile, PrivateKey};
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    const HASH: &str = "password_hash = \"$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0\
                        $4k4jmxeRyQFULkTSbMXLdXHsUWkWBAhrKkbTcp8Ji+w\"\n";

    fn read(sections: &str) -> Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str, mode| {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        let key = PrivateKey::from([1; 32]);
        key.write_new(&dir.path().join("server.key")).unwrap();
        write("admin.token", "0123456789abcdefghijkl\n", 0o600);
        write("short.token", "0123456789\n", 0o600);
        write("cert.pem", "cert", 0o644);
        write("key.pem", "key", 0o600);
        write("open.pem", "key", 0o644);
        let text = format!("[interface]\nprivate_key_file = \"server.key\"\n{sections}");
        let loaded = parse(&text, &dir.path().join("vcgate.toml"));
        loaded
            .map(|loaded| loaded.config)
            .map_err(|p| p.to_string())
    }

    #[test]
    fn it_is_off_unless_it_listens() {
        assert_eq!(read("").unwrap().admin, None);
        assert_eq!(read(&format!("[admin]\n{HASH}")).unwrap().admin, None);
        assert_eq!(read("[metrics]\n").unwrap().metrics, None);
        let admin = read(&format!("[admin]\nlisten = \"127.0.0.1:8480\"\n{HASH}"));
        let admin = admin.unwrap().admin.unwrap();
        assert_eq!(admin.listen.port(), 8480);
        assert!(admin.tls.is_none() && admin.proxy.is_none());
        let token = "[admin]\nlisten = \"[::1]:8480\"\ntoken_file = \"admin.token\"\n";
        let admin = read(token).unwrap().admin.unwrap();
        assert!(!format!("{admin:?}").contains("0123456789"), "{admin:?}");
    }

    #[test]
    fn a_listener_that_would_give_others_control_is_refused() {
        let tls = "cert = \"cert.pem\"\nkey = \"key.pem\"\n";
        let all = format!("[admin]\nlisten = \"0.0.0.0:8480\"\n{HASH}");
        assert!(read(&format!("{all}{tls}")).is_ok());
        for (text, error) in [
            (
                "[admin]\nlisten = \"127.0.0.1:8480\"\n".to_owned(),
                "there is no login",
            ),
            (all.clone(), "0.0.0.0:8480 is not a loopback address"),
            (
                format!("{all}cert = \"cert.pem\"\n"),
                "admin.cert is set and admin.key is not",
            ),
            (
                format!("{all}cert = \"cert.pem\"\nkey = \"open.pem\"\n"),
                "is open to users other than its owner",
            ),
            (
                format!("{all}{tls}trusted_header = \"X-User\"\n"),
                "admin.trusted_proxies is not",
            ),
            (
                format!("{all}{tls}trusted_proxies = [\"10.0.0.1\"]\n"),
                "admin.trusted_header is not",
            ),
        ] {
            let found = read(&text).unwrap_err();
            assert!(found.contains(error), "{text}: {found}");
        }
    }

    #[test]
    fn bad_values_are_named_with_a_remedy() {
        for (line, error) in [
            (
                "listen = \"8480\"",
                "\"8480\" is not an address to listen on",
            ),
            (
                "listen = \"localhost:8480\"",
                "write an IP address and a port",
            ),
            ("listen = \"127.0.0.1:0\"", "is not an address to listen on"),
            (
                "password_hash = \"secret\"",
                "what \"vcgate admin password\" prints",
            ),
            ("token_file = \"short.token\"", "does not contain a token"),
            ("token_file = \"none.token\"", "cannot read"),
            ("cert = \"none.pem\"", "name a PEM file"),
            (
                "url = \"vpn.example.com\"",
                "is not the address of the page",
            ),
            (
                "url = \"https://vpn.example.com/page\"",
                "write it without a path",
            ),
            ("trusted_header = \"X User\"", "is not a header's name"),
            ("trusted_proxies = [\"proxy\"]", "trusted_proxies"),
            ("hash = \"x\"", "unknown key \"hash\" in [admin]"),
        ] {
            let found = read(&format!("[admin]\n{line}\n")).unwrap_err();
            assert!(found.contains(error), "{line}: {found}");
        }
        let found = read("[metrics]\nlisten = \"x\"\n").unwrap_err();
        assert!(found.contains("metrics.listen"), "{found}");
    }
}
