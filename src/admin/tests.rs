//! Calls the routes without a socket, over a fake endpoint and a configuration in a temporary folder.

use super::*;
use crate::config::{AdminToken, AdminUrl, ReverseProxy};
use crate::control::local;
use crate::keys::{KeyFile as _, PrivateKey};
use crate::password;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use serde_json::{Value, json};
use std::rc::Rc;
use tempfile::TempDir;
use tower::ServiceExt as _;
use zeroize::Zeroizing;

#[path = "../../tests/fake/mod.rs"]
#[allow(dead_code)]
mod fake;

const PASSWORD: &str = "correct horse";
const TOKEN: &str = "0123456789abcdefghijklmnop";

struct Page {
    router: axum::Router,
    dir: TempDir,
    links: SharedLinks,
    cookie: Option<String>,
    csrf: Option<String>,
}

/// A page with a password, a token and a trusted proxy at 127.0.0.1.
fn page() -> Page {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("keys")).unwrap();
    let key = PrivateKey::from([1; 32]);
    key.write_new(&dir.path().join("keys/server.key")).unwrap();
    let path = dir.path().join("vcgate.toml");
    std::fs::write(&path, "[interface]\nendpoint = \"203.0.113.1\"\n").unwrap();
    let (sender, requests) = local::queue();
    std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(local::serve(requests, Rc::new(fake::Fake::default())));
    });
    let worker = Worker::start_free(Subject {
        path,
        interface: "fake".into(),
        sender,
    });
    let admin = Admin {
        listen: "127.0.0.1:8480".parse().unwrap(),
        password_hash: Some(password::hash(PASSWORD).unwrap()),
        token: Some(AdminToken(Zeroizing::new(TOKEN.into()))),
        url: Some(AdminUrl {
            text: "https://vpn.example.com".into(),
            authority: "vpn.example.com".into(),
        }),
        tls: None,
        proxy: Some(ReverseProxy {
            header: "x-remote-user".into(),
            trusted: vec!["127.0.0.1/32".parse().unwrap()],
        }),
    };
    let links = SharedLinks::new(Some("https://vpn.example.com".into()));
    Page {
        router: router(App::new(admin, worker, links.clone())),
        dir,
        links,
        cookie: None,
        csrf: None,
    }
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    fn message(&self) -> String {
        self.json()["error"]["message"].as_str().unwrap().to_owned()
    }
}

impl Page {
    /// Sends a request with the session's cookie and CSRF token, if there are any. `extra` replaces
    /// headers; an empty value removes one.
    async fn send(&self, method: &str, path: &str, body: &str, extra: &[(&str, &str)]) -> Answer {
        let mut request = Request::new(Body::from(body.to_owned()));
        *request.method_mut() = method.parse().unwrap();
        *request.uri_mut() = path.parse().unwrap();
        let remote = server::Remote("203.0.113.7:4242".parse().unwrap());
        request.extensions_mut().insert(remote);
        let headers = request.headers_mut();
        let mut set = |name: &str, value: &str| {
            let name: header::HeaderName = name.parse().unwrap();
            match value {
                "" => drop(headers.remove(&name)),
                _ => drop(headers.insert(name, HeaderValue::from_str(value).unwrap())),
            }
        };
        set("host", "127.0.0.1:8480");
        set("content-type", "application/json");
        set("cookie", self.cookie.as_deref().unwrap_or_default());
        set("x-csrf-token", self.csrf.as_deref().unwrap_or_default());
        extra.iter().for_each(|(name, value)| set(name, value));
        if let Some((_, address)) = extra.iter().find(|(name, _)| *name == "x-from") {
            let remote = server::Remote(address.parse().unwrap());
            request.extensions_mut().insert(remote);
        }
        let response: Response<Body> = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, 1 << 20).await.unwrap();
        Answer {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8(bytes.to_vec()).unwrap(),
        }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, "", &[]).await
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        self.send("POST", path, &body.to_string(), &[]).await
    }

    async fn try_login(&self, password: &str, extra: &[(&str, &str)]) -> Answer {
        let body = json!({ "password": password }).to_string();
        self.send("POST", "/api/v1/session", &body, extra).await
    }

    async fn login(mut self) -> Self {
        let answer = self.try_login(PASSWORD, &[]).await;
        self.take_session(&answer);
        self
    }

    fn take_session(&mut self, answer: &Answer) {
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        let cookie = answer.headers[header::SET_COOKIE].to_str().unwrap();
        self.cookie = Some(cookie.split(';').next().unwrap().to_owned());
        self.csrf = Some(answer.json()["csrf_token"].as_str().unwrap().to_owned());
    }
}

#[tokio::test]
async fn a_login_sets_a_cookie_that_scripts_and_other_sites_cannot_use() {
    let page = page();
    let answer = page.try_login(PASSWORD, &[]).await;
    let cookie = answer.headers[header::SET_COOKIE].to_str().unwrap();
    for flag in ["HttpOnly", "SameSite=Strict", "Secure", "Path=/"] {
        assert!(cookie.split("; ").any(|part| part == flag), "{cookie}");
    }
    assert_eq!(answer.json()["user"], "admin");
    let page = page.login().await;
    assert_eq!(page.get("/api/v1/peers").await.json(), json!([]));
    let end = page.send("DELETE", "/api/v1/session", "", &[]).await;
    assert_eq!(end.status, StatusCode::NO_CONTENT);
    assert_eq!(
        page.get("/api/v1/peers").await.status,
        StatusCode::UNAUTHORIZED
    );
}

#[tokio::test]
async fn every_answer_forbids_foreign_scripts_and_frames() {
    let page = page();
    for path in [
        "/",
        "/main.js",
        "/api/v1/peers",
        "/api/none",
        "/c/none",
        "/none",
    ] {
        let headers = page.get(path).await.headers;
        let policy = headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(
            policy.contains("default-src 'none'") && !policy.contains("unsafe"),
            "{policy}"
        );
        assert_eq!(headers[header::X_FRAME_OPTIONS], "DENY", "{path}");
        assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        assert_eq!(headers[header::REFERRER_POLICY], "no-referrer");
        assert_eq!(headers[header::CACHE_CONTROL], "no-store");
    }
}

#[tokio::test]
async fn every_route_of_the_document_needs_a_login_and_every_change_the_csrf_token() {
    let page = page().login().await;
    let document = page.get("/api/v1/openapi.json").await.json();
    assert!(
        document["openapi"].as_str().unwrap().starts_with("3.1"),
        "{document}"
    );
    let errors = &document["paths"]["/api/v1/peers"]["post"]["responses"];
    for status in ["400", "415", "422", "429", "503"] {
        assert!(
            errors[status]["content"]["application/json"].is_object(),
            "{status}"
        );
    }
    let mut changes = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let method = method.to_uppercase();
            if path == "/api/v1/session" && method != "DELETE" {
                continue;
            }
            let path = path.replace("{name}", "none");
            let answer = page.send(&method, &path, "{}", &[("cookie", "")]).await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{method} {path}");
            let stolen = [("cookie", "vcgate_session=0123456789")];
            let answer = page.send(&method, &path, "{}", &stolen).await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{method} {path}");
            if method == "GET" {
                continue;
            }
            changes += 1;
            for csrf in ["", "wrong"] {
                let forged = [("x-csrf-token", csrf)];
                let answer = page.send(&method, &path, "{}", &forged).await;
                assert_eq!(answer.status, StatusCode::FORBIDDEN, "{method} {path}");
            }
        }
    }
    assert_eq!(changes, 10);
}

#[tokio::test]
async fn a_script_has_a_token_and_needs_no_csrf_token() {
    let page = page();
    let token = format!("Bearer {TOKEN}");
    let add = r#"{"name":"anna"}"#;
    let answer = page
        .send("POST", "/api/v1/peers", add, &[("authorization", &token)])
        .await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
    for wrong in ["Bearer", "Bearer x", "Basic eDp5", &token[..20]] {
        let answer = page
            .send("GET", "/api/v1/peers", "", &[("authorization", wrong)])
            .await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{wrong}");
    }
    // Wrong tokens count as failed logins.
    for _ in 0..5 {
        page.send("GET", "/api/v1/peers", "", &[("authorization", "Bearer x")])
            .await;
    }
    let answer = page
        .send("GET", "/api/v1/peers", "", &[("authorization", "Bearer x")])
        .await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn wrong_passwords_are_limited_for_each_source() {
    let page = page();
    for _ in 0..5 {
        let answer = page.try_login("wrong password", &[]).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        assert!(!answer.headers.contains_key(header::SET_COOKIE));
    }
    let answer = page.try_login(PASSWORD, &[]).await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    let wait: u64 = answer.headers[header::RETRY_AFTER]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..=31).contains(&wait), "{wait}");
    // Another browser behind the proxy, whose address the proxy names.
    let other = [
        ("x-from", "127.0.0.1:9"),
        ("x-forwarded-for", "198.51.100.1"),
    ];
    assert_eq!(
        page.try_login(PASSWORD, &other).await.status,
        StatusCode::OK
    );
    // A browser cannot choose its address.
    let forged = [("x-forwarded-for", "198.51.100.1")];
    assert_eq!(
        page.try_login(PASSWORD, &forged).await.status,
        StatusCode::TOO_MANY_REQUESTS
    );
}

#[tokio::test]
async fn foreign_names_of_the_page_are_refused() {
    let page = page();
    for path in ["/", "/api/v1/session"] {
        let answer = page
            .send("GET", path, "", &[("host", "attacker.example")])
            .await;
        assert_eq!(answer.status, StatusCode::MISDIRECTED_REQUEST, "{path}");
        let answer = page
            .send("GET", path, "", &[("host", "vpn.example.com")])
            .await;
        assert_ne!(answer.status, StatusCode::MISDIRECTED_REQUEST, "{path}");
    }
}

#[tokio::test]
async fn a_trusted_proxy_logs_users_in_and_must_go_on_naming_them() {
    let mut page = page();
    let proxy = [("x-from", "127.0.0.1:9"), ("x-remote-user", "anna")];
    let answer = page.send("GET", "/api/v1/session", "", &proxy).await;
    assert_eq!(answer.json()["user"], "anna");
    page.take_session(&answer);
    let answer = page.send("GET", "/api/v1/peers", "", &proxy).await;
    assert_eq!(answer.status, StatusCode::OK);
    for other in [
        &[("x-from", "127.0.0.1:9")][..],
        &[("x-from", "127.0.0.1:9"), ("x-remote-user", "ben")],
        &[("x-from", "203.0.113.9:9"), ("x-remote-user", "anna")],
    ] {
        let answer = page.send("GET", "/api/v1/peers", "", other).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{other:?}");
    }
    page.cookie = None;
    let direct = [("x-remote-user", "anna")];
    let answer = page.send("GET", "/api/v1/session", "", &direct).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_peer_lives_from_its_addition_to_its_removal() {
    let page = page().login().await;
    let added = page.post("/api/v1/peers", json!({ "name": "anna" })).await;
    assert_eq!(added.status, StatusCode::CREATED, "{}", added.text);
    assert_eq!(added.json()["interface"], "fake");
    assert_eq!(added.json()["allowed_ips"], json!(["10.8.0.2/32"]));

    let set = json!({ "expires": "30d", "note": "2nd floor" }).to_string();
    let set = page.send("PATCH", "/api/v1/peers/anna", &set, &[]).await;
    assert_eq!(
        set.json()["changed"],
        json!(["expires", "note"]),
        "{}",
        set.text
    );
    assert_eq!(
        page.get("/api/v1/peers/anna").await.json()["note"],
        "2nd floor"
    );
    for (verb, state) in [("disable", "disabled"), ("enable", "enabled")] {
        let answer = page
            .post(&format!("/api/v1/peers/anna/{verb}"), json!({}))
            .await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        assert_eq!(page.get("/api/v1/peers").await.json()[0]["state"], state);
    }
    let renamed = page
        .post("/api/v1/peers/anna/rename", json!({ "to": "ben" }))
        .await;
    assert_eq!(renamed.json()["peer"], "ben", "{}", renamed.text);
    let before = page.get("/api/v1/peers/ben/client").await;
    assert!(before.text.contains("PrivateKey = "), "{}", before.text);
    let disposition = before.headers[header::CONTENT_DISPOSITION]
        .to_str()
        .unwrap();
    assert_eq!(disposition, "attachment; filename=\"ben.conf\"");
    let rekeyed = page.post("/api/v1/peers/ben/rekey", json!({})).await;
    assert_eq!(rekeyed.status, StatusCode::OK, "{}", rekeyed.text);
    assert_ne!(page.get("/api/v1/peers/ben/client").await.text, before.text);
    let code = page.get("/api/v1/peers/ben/qr").await;
    assert_eq!(code.headers[header::CONTENT_TYPE], "image/svg+xml");
    assert!(code.text.contains("<svg"), "{}", code.text);
    let why = page.get("/api/v1/peers/ben/why").await;
    assert_eq!(why.json()["connected"], false, "{}", why.text);

    let removed = page.send("DELETE", "/api/v1/peers/ben", "", &[]).await;
    assert_eq!(removed.status, StatusCode::OK, "{}", removed.text);
    assert_eq!(page.get("/api/v1/peers").await.json(), json!([]));
    let left = std::fs::read_dir(page.dir.path().join("clients")).unwrap();
    assert_eq!(left.count(), 0);
}

#[tokio::test]
async fn bad_input_is_refused_with_cause_and_remedy() {
    let page = page().login().await;
    page.post("/api/v1/peers", json!({ "name": "anna" })).await;
    for (method, path, body, status, message) in [
        ("POST", "/api/v1/peers", "{", 400, "JSON"),
        ("POST", "/api/v1/peers", "{}", 422, "missing field"),
        (
            "POST",
            "/api/v1/peers",
            r#"{"name":"a","x":1}"#,
            422,
            "unknown field",
        ),
        ("POST", "/api/v1/peers", r#"{"name":"../a"}"#, 422, "../a"),
        (
            "POST",
            "/api/v1/peers",
            r#"{"name":"anna"}"#,
            422,
            "a peer is called \"anna\" already",
        ),
        (
            "POST",
            "/api/v1/peers",
            r#"{"name":"a","public_key":"x"}"#,
            422,
            "key",
        ),
        (
            "POST",
            "/api/v1/peers",
            r#"{"name":"a","allowed_ips":["x"]}"#,
            422,
            "invalid",
        ),
        (
            "PATCH",
            "/api/v1/peers/anna",
            r#"{"colour":"red"}"#,
            422,
            "colour",
        ),
        (
            "PATCH",
            "/api/v1/peers/anna",
            r#"{"expires":"soon"}"#,
            422,
            "soon",
        ),
        (
            "PATCH",
            "/api/v1/peers/anna",
            r#"{"note":"a\nprivate_key = 1"}"#,
            422,
            "",
        ),
        (
            "PATCH",
            "/api/v1/peers/none",
            r#"{"note":"x"}"#,
            404,
            "no peer \"none\"",
        ),
        ("DELETE", "/api/v1/peers/none", "", 404, "no peer"),
        ("GET", "/api/v1/peers/none/qr", "", 404, "no peer"),
        (
            "POST",
            "/api/v1/peers/anna/rename",
            r#"{"to":"a/b"}"#,
            422,
            "a/b",
        ),
        ("GET", "/api/v1/nothing", "", 404, "openapi.json"),
    ] {
        let answer = page.send(method, path, body, &[]).await;
        assert_eq!(
            answer.status.as_u16(),
            status,
            "{method} {path} {body}: {}",
            answer.text
        );
        assert!(
            answer.message().contains(message),
            "{body}: {}",
            answer.text
        );
    }
    let long = format!(r#"{{"name":"{}"}}"#, "x".repeat(70_000));
    let answer = page.send("POST", "/api/v1/peers", &long, &[]).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let answer = page
        .send("POST", "/api/v1/session", "password=x", &form)
        .await;
    assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
}

#[tokio::test]
async fn reports_are_those_of_the_commands() {
    let page = page().login().await;
    assert_eq!(page.get("/api/v1/status").await.json()["interface"], "fake");
    assert_eq!(page.get("/api/v1/flows").await.json(), json!([]));
    assert_eq!(page.get("/api/v1/smb").await.json()["recent"], json!([]));
    assert_eq!(
        page.get("/api/v1/smb/timeline?from=7").await.json()["next"],
        7
    );
    assert_eq!(
        page.get("/api/v1/smb/timeline?from=x")
            .await
            .status
            .as_u16(),
        400
    );
    let doctor = page.get("/api/v1/doctor").await.json();
    assert!(
        doctor
            .as_array()
            .unwrap()
            .iter()
            .any(|check| check["name"] == "kernel")
    );
    let reload = page.post("/api/v1/reload", json!({})).await.json();
    assert_eq!(reload["at_next_start"], json!(["interface.mtu"]));
    assert!(page.get("/api/v1/changes").await.json().is_array());
}

#[tokio::test]
async fn a_link_hands_the_file_out_once() {
    let mut page = page().login().await;
    page.post("/api/v1/peers", json!({ "name": "anna" })).await;
    let link = page
        .post("/api/v1/peers/anna/link", json!({ "valid_minutes": 5 }))
        .await;
    assert_eq!(link.status, StatusCode::CREATED, "{}", link.text);
    let answer = page.post("/api/v1/peers/none/link", json!({})).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);

    (page.cookie, page.csrf) = (None, None);
    let minute = std::time::Duration::from_secs(60);
    let link = |page: &Page| {
        let url = page.links.add("anna", minute).unwrap().url;
        url.strip_prefix("https://vpn.example.com")
            .unwrap()
            .to_owned()
    };
    let path = link(&page);
    for _preview in 0..3 {
        let shown = page.get(&path).await;
        assert!(
            shown.text.contains("WireGuard configuration of anna"),
            "{}",
            shown.text
        );
        assert!(!shown.text.contains("PrivateKey"));
    }
    let file = page.send("POST", &path, "", &[]).await;
    assert!(file.text.contains("PrivateKey = "), "{}", file.text);
    for method in ["GET", "POST"] {
        let answer = page.send(method, &path, "", &[]).await;
        assert_eq!(answer.status, StatusCode::GONE, "{method}");
        assert!(!answer.text.contains("PrivateKey"));
    }
    let path = format!("{}?as=code", link(&page));
    let code = page.send("POST", &path, "", &[]).await;
    assert!(code.text.contains("<svg"), "{}", code.text);
    assert_eq!(page.get("/c/unknown").await.status, StatusCode::GONE);
}
