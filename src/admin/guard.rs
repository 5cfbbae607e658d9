//! The checks before each request: the name by which the browser knows the page (DNS rebinding), the
//! login, and the token against forged requests (CSRF); and the headers of each answer.

use super::App;
use super::error::ApiError;
use super::server::Remote;
use super::token::Token;
use super::worker::Caller;
use crate::config::{Admin, ReverseProxy};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use std::net::IpAddr;
use std::time::{Duration, Instant};
use subtle::ConstantTimeEq as _;
use tokio::time::timeout;

/// The name of the session's cookie.
const COOKIE: &str = "vcgate_session";
/// The header that repeats the session's CSRF token.
const CSRF_HEADER: &str = "x-csrf-token";
/// Maximum time of a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The headers of each answer: nothing but the page's own files is loaded, nothing is framed, sniffed
/// or stored.
const HEADERS: [(HeaderName, &str); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
         form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
];

/// Adds the headers of each answer.
pub(super) async fn protect(State(app): State<App>, request: Request, next: Next) -> Response {
    let answer = async {
        if !is_known_host(&app.admin, request.headers()) {
            let message = "the page is not known by the name in the header Host";
            let error = ApiError::new(StatusCode::MISDIRECTED_REQUEST, message);
            return error.into_response();
        }
        next.run(request).await
    };
    let mut response = match timeout(REQUEST_TIMEOUT, answer).await {
        Ok(response) => response,
        Err(_) => ApiError::new(StatusCode::REQUEST_TIMEOUT, "it took too long").into_response(),
    };
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if app.is_encrypted() {
        let value = HeaderValue::from_static("max-age=31536000");
        headers.insert(header::STRICT_TRANSPORT_SECURITY, value);
    }
    response
}

/// Lets only administrators pass, and changes only with the session's CSRF token. A token of scripts
/// needs none, since browsers do not send it by themselves.
pub(super) async fn authenticate(
    State(app): State<App>,
    mut request: Request,
    next: Next,
) -> Response {
    match login(&app, &request) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(error) => error.into_response(),
    }
}

fn login(app: &App, request: &Request) -> Result<Caller, ApiError> {
    let (now, headers) = (Instant::now(), request.headers());
    let source = source(&app.admin, request);
    if let Some(given) = bearer(headers) {
        app.attempts()
            .begin(source, now)
            .map_err(ApiError::too_many)?;
        let token = app.admin.token.as_ref().map(|token| token.0.as_bytes());
        if !token.is_some_and(|token| token.ct_eq(given.as_bytes()).into()) {
            tracing::warn!(%source, "a request with a wrong token was refused");
            return Err(ApiError::unauthorized());
        }
        app.attempts().succeeded(source, now);
        let user = "token".to_owned();
        return Ok(Caller { user, source });
    }
    let id = cookie(headers).ok_or_else(ApiError::unauthorized)?;
    let session = app.sessions().use_session(id, now);
    let session = session.ok_or_else(ApiError::unauthorized)?;
    let named = || proxy_user(&app.admin, remote(request), headers);
    if session.by_proxy && named().as_ref() != Some(&session.user) {
        return Err(ApiError::unauthorized());
    }
    let is_change = ![Method::GET, Method::HEAD].contains(request.method());
    let given = headers
        .get(CSRF_HEADER)
        .and_then(|value| value.to_str().ok());
    if is_change && !given.is_some_and(|given| session.has_csrf(given)) {
        let message = "the header X-CSRF-Token is missing or wrong; load the page again";
        return Err(ApiError::new(StatusCode::FORBIDDEN, message));
    }
    Ok(Caller {
        user: session.user,
        source,
    })
}

/// Returns the user that a trusted reverse proxy names.
pub(super) fn proxy_user(admin: &Admin, remote: IpAddr, headers: &HeaderMap) -> Option<String> {
    let proxy = admin.proxy.as_ref()?;
    if !is_trusted(proxy, remote) {
        return None;
    }
    let mut named = headers.get_all(&proxy.header).iter();
    let user = named.next()?.to_str().ok()?.trim();
    // Two headers: one of them may be the browser's own.
    let is_one = named.next().is_none();
    (is_one && !user.is_empty() && user.len() <= 64).then(|| user.to_owned())
}

/// Returns the token of the header Authorization.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Returns the session's cookie.
pub(super) fn cookie(headers: &HeaderMap) -> Option<&str> {
    let lines = headers.get_all(header::COOKIE).iter();
    let lines = lines.filter_map(|line| line.to_str().ok());
    let mut cookies = lines.flat_map(|line| line.split(';'));
    cookies.find_map(|cookie| {
        let (name, value) = cookie.trim().split_once('=')?;
        (name == COOKIE).then_some(value)
    })
}

/// Returns the header that sets the session's cookie, or deletes it without a token.
pub(super) fn set_cookie(token: Option<&Token>, encrypted: bool) -> String {
    let secure = if encrypted { "; Secure" } else { "" };
    let (value, age) = match token {
        Some(token) => (token.as_str(), super::sessions::MAX_AGE.as_secs()),
        None => ("", 0),
    };
    format!("{COOKIE}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={age}{secure}")
}

/// Returns the address of the browser: behind a trusted proxy, that of its header X-Forwarded-For.
pub(super) fn source(admin: &Admin, request: &Request) -> IpAddr {
    let remote = remote(request);
    let Some(proxy) = admin
        .proxy
        .as_ref()
        .filter(|proxy| is_trusted(proxy, remote))
    else {
        return remote;
    };
    let lines = request.headers().get_all("x-forwarded-for").iter();
    let lines: Vec<_> = lines.filter_map(|line| line.to_str().ok()).collect();
    let mut addresses = lines.iter().rev().flat_map(|line| line.rsplit(','));
    // Each proxy appends the address of its client: the last one that is not a proxy's is true.
    let first_foreign = addresses.find_map(|address| {
        let address: IpAddr = address.trim().parse().ok()?;
        (!is_trusted(proxy, address)).then_some(address)
    });
    first_foreign.unwrap_or(remote)
}

/// Returns the address of the other end of the connection.
pub(super) fn remote(request: &Request) -> IpAddr {
    let remote = request.extensions().get::<Remote>();
    remote.map_or(IpAddr::from([0, 0, 0, 0]), |remote| {
        remote.0.ip().to_canonical()
    })
}

fn is_trusted(proxy: &ReverseProxy, address: IpAddr) -> bool {
    proxy.trusted.iter().any(|net| net.contains(&address))
}

/// Whether the browser knows the page by a name that no attacker's DNS can give it: an address,
/// `localhost`, or the name of `admin.url`.
fn is_known_host(admin: &Admin, headers: &HeaderMap) -> bool {
    let Some(host) = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
    else {
        return false;
    };
    let host = host.to_ascii_lowercase();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() => name,
        _ => &host,
    };
    let known = admin.url.as_ref().map(|url| url.authority.as_str());
    let is_known = known.is_some_and(|authority| {
        let known = authority
            .rsplit_once(':')
            .map_or(authority, |(name, _)| name);
        name == known
    });
    let address = name.trim_start_matches('[').trim_end_matches(']');
    is_known || name == "localhost" || address.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AdminUrl;

    fn admin() -> Admin {
        Admin {
            listen: "127.0.0.1:8480".parse().unwrap(),
            password_hash: None,
            token: None,
            url: Some(AdminUrl {
                text: "https://vpn.example.com:8480".into(),
                authority: "vpn.example.com:8480".into(),
            }),
            tls: None,
            proxy: Some(ReverseProxy {
                header: "x-remote-user".into(),
                trusted: vec![
                    "127.0.0.0/8".parse().unwrap(),
                    "10.0.0.0/8".parse().unwrap(),
                ],
            }),
        }
    }

    fn request(remote: &str, headers: &[(&'static str, &'static str)]) -> Request {
        let mut request = Request::default();
        let remote = format!("{remote}:999").parse().unwrap();
        request.extensions_mut().insert(Remote(remote));
        for (name, value) in headers {
            let value = HeaderValue::from_static(value);
            request.headers_mut().append(*name, value);
        }
        request
    }

    #[test]
    fn only_names_that_no_foreign_dns_can_give_are_hosts() {
        for (host, known) in [
            ("127.0.0.1:8480", true),
            ("[::1]:8480", true),
            ("localhost", true),
            ("LocalHost:8480", true),
            ("vpn.example.com:8480", true),
            ("vpn.example.com", true),
            ("attacker.example:8480", false),
            ("localhost.attacker.example", false),
            ("", false),
        ] {
            let request = request("127.0.0.1", &[("host", host)]);
            assert_eq!(is_known_host(&admin(), request.headers()), known, "{host}");
        }
        assert!(!is_known_host(&admin(), &HeaderMap::new()));
    }

    #[test]
    fn only_a_trusted_proxy_names_users_and_sources() {
        let user = |remote: &str, headers: &[(&'static str, &'static str)]| {
            let request = request(remote, headers);
            proxy_user(&admin(), super::remote(&request), request.headers())
        };
        let named = [("x-remote-user", "anna")];
        assert_eq!(user("127.0.0.1", &named).as_deref(), Some("anna"));
        assert_eq!(user("203.0.113.5", &named), None);
        assert_eq!(user("127.0.0.1", &[]), None);
        let two = [("x-remote-user", "anna"), ("x-remote-user", "admin")];
        assert_eq!(user("127.0.0.1", &two), None);
        for (remote, forwarded, expected) in [
            ("127.0.0.1", "203.0.113.5", "203.0.113.5"),
            (
                "127.0.0.1",
                "198.51.100.1, 203.0.113.5, 10.0.0.7",
                "203.0.113.5",
            ),
            ("127.0.0.1", "10.0.0.7", "127.0.0.1"),
            ("127.0.0.1", "nonsense", "127.0.0.1"),
            ("203.0.113.9", "203.0.113.5", "203.0.113.9"),
        ] {
            let request = request(remote, &[("x-forwarded-for", forwarded)]);
            let expected: IpAddr = expected.parse().unwrap();
            assert_eq!(source(&admin(), &request), expected, "{remote} {forwarded}");
        }
    }

    #[test]
    fn the_cookie_is_found_among_others_and_has_its_flags() {
        let token = Token::from([7; 32]);
        let set = set_cookie(Some(&token), true);
        for flag in [
            "Path=/",
            "HttpOnly",
            "SameSite=Strict",
            "Secure",
            "Max-Age=43200",
        ] {
            assert!(set.split("; ").any(|part| part == flag), "{set}");
        }
        assert!(!set_cookie(Some(&token), false).contains("Secure"));
        assert!(set_cookie(None, true).contains("Max-Age=0"));
        let request = request("127.0.0.1", &[("cookie", "a=b; vcgate_session=x; c")]);
        assert_eq!(cookie(request.headers()), Some("x"));
        assert_eq!(cookie(&HeaderMap::new()), None);
    }
}
