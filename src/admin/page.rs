//! The files of the page, which the program contains.

use axum::Router;
use axum::http::header;
use axum::routing::get;

/// The path, the type and the content of each file.
const FILES: [(&str, &str, &str); 8] = [
    (
        "/",
        "text/html; charset=utf-8",
        include_str!("assets/index.html"),
    ),
    (
        "/page.css",
        "text/css; charset=utf-8",
        include_str!("assets/page.css"),
    ),
    ("/main.js", SCRIPT, include_str!("assets/main.js")),
    ("/api.js", SCRIPT, include_str!("assets/api.js")),
    ("/dom.js", SCRIPT, include_str!("assets/dom.js")),
    ("/peers.js", SCRIPT, include_str!("assets/peers.js")),
    ("/reports.js", SCRIPT, include_str!("assets/reports.js")),
    (
        "/icon.svg",
        "image/svg+xml",
        include_str!("assets/icon.svg"),
    ),
];
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Returns the routes of the files.
pub(super) fn router() -> Router {
    FILES
        .into_iter()
        .fold(Router::new(), |router, (path, kind, text)| {
            router.route(
                path,
                get(move || async move { ([(header::CONTENT_TYPE, kind)], text) }),
            )
        })
}
