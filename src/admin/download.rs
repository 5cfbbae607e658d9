//! One-time links: a page that anybody with the link can open, and a button that fetches the client's
//! file and uses the link up. Opening the page does not, since messengers fetch links for a preview.

use super::App;
use super::error::ApiError;
use super::sessions::Links;
use super::token::Token;
use super::worker::Caller;
use crate::control::report::LinkReport;
use crate::{config, operate};
use axum::Router;
use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse as _, Response};
use axum::routing::get;
use serde::Deserialize;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// The default time for which a link is valid.
pub(super) const LINK_VALIDITY: Duration = Duration::from_secs(24 * 3600);
/// Maximum time for which a link is valid.
const MAX_LINK_VALIDITY: Duration = Duration::from_secs(30 * 24 * 3600);

/// The links that were not used, which the API and the control socket share.
#[derive(Debug, Clone, Default)]
pub struct SharedLinks {
    links: Arc<Mutex<Links>>,
    base: Option<String>,
}

impl SharedLinks {
    /// Makes no links, for a page of this address.
    pub fn new(base: Option<String>) -> Self {
        Self {
            links: Arc::default(),
            base,
        }
    }

    /// Makes a link to a peer's file, which is valid for at most 30 days.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub fn add(&self, peer: &str, valid: Duration) -> io::Result<LinkReport> {
        let token = Token::random()?;
        let valid = valid.min(MAX_LINK_VALIDITY);
        let base = self.base.as_deref().unwrap_or_default();
        let report = LinkReport {
            peer: peer.to_owned(),
            url: format!("{base}/c/{}", token.as_str()),
            expires: (SystemTime::now() + valid).into(),
        };
        self.lock()
            .add(token, peer.to_owned(), valid, Instant::now());
        Ok(report)
    }

    fn lock(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the route of links.
pub(super) fn router(app: App) -> Router {
    Router::new()
        .route("/c/{token}", get(show).post(fetch))
        .with_state(app)
}

/// Shows the buttons.
async fn show(State(app): State<App>, Path(token): Path<String>) -> Response {
    match app.links.lock().peer(&token, Instant::now()) {
        Some(peer) => Html(page(&format!(
            "<h1>WireGuard configuration of {}</h1><p>This works once. Save the file, and open it in the \
             WireGuard app; or show a code, and scan it with the app of another device.</p>\
             <form method=\"post\"><button>Save the file</button> \
             <button formaction=\"?as=code\">Show a code</button></form>",
            escaped(peer)
        )))
        .into_response(),
        None => gone(),
    }
}

/// The form in which the file is wanted.
#[derive(Debug, Deserialize)]
struct Wanted {
    #[serde(rename = "as")]
    form: Option<String>,
}

/// Hands the file out.
async fn fetch(
    State(app): State<App>,
    Path(token): Path<String>,
    Query(wanted): Query<Wanted>,
    request: Request,
) -> Result<Response, ApiError> {
    let source = super::guard::source(&app.admin, &request);
    let Some(peer) = app.links.lock().take(&token, Instant::now()) else {
        return Ok(gone());
    };
    tracing::info!(target: crate::logging::AUDIT, %source, "peer {peer}: its file was fetched by a link");
    let caller = Caller {
        user: "link".into(),
        source,
    };
    let name = peer.clone();
    let text = app.worker.run(caller, move |operator| {
        let config = config::load(operator.path)?.config;
        let host = operate::host_network::of(&config);
        config::client(&config, &peer, &host).map(|client| client.text)
    });
    let text = text.await??;
    if wanted.form.as_deref() != Some("code") {
        return Ok(super::api::client_file(&name, &text));
    }
    let too_long = |error: operate::qr::TooLong| {
        ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string())
    };
    let image = operate::qr::svg(&text).map_err(too_long)?;
    // The image follows the XML declaration, which HTML does not have.
    let image = image.split_once("?>").map_or(&*image, |(_, image)| image);
    let heading = format!("<h1>WireGuard configuration of {}</h1>", escaped(&name));
    Ok(Html(page(&format!("{heading}<figure>{image}</figure>"))).into_response())
}

fn gone() -> Response {
    let text = "<h1>This link does not work any more</h1><p>It was used, or its time is over. Ask for \
                another one.</p>";
    (StatusCode::GONE, Html(page(text))).into_response()
}

fn page(body: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><meta name=\"robots\" content=\"noindex\"><title>WireGuard \
         configuration</title><link rel=\"stylesheet\" href=\"/page.css\"></head><body \
         class=\"plain\"><main>{body}</main></body></html>"
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('"', "&quot;")
}
