//! Lists, adds, changes and removes peers, and hands out their files: `vcgate peer …`.

use super::super::App;
use super::super::download::LINK_VALIDITY;
use super::super::error::{ApiError, ErrorBody};
use super::super::worker::{Caller, Operator};
use super::Body;
use crate::config::{self, Assignment, Client, NewPeer};
use crate::control::report::LinkReport;
use crate::keys::PublicKey;
use crate::operate::peers::{self, AddedPeer, ChangedPeer, RemovedPeer, Row};
use crate::operate::why::{Explanation, explain_peer};
use crate::operate::{OperationError, host_network, qr};
use axum::extract::{Path, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use ipnet::IpNet;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};
use utoipa::ToSchema;

/// A peer to add.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AddPeer {
    /// Its name.
    name: String,
    /// The key that the client has already; without one, a new one is made for it.
    #[schema(value_type = Option<String>)]
    public_key: Option<PublicKey>,
    /// The inner addresses that it may use; empty means the next free one.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    allowed_ips: Vec<IpNet>,
    /// Further keys of its section with their values, as in `vcgate peer set`.
    #[serde(default)]
    keys: BTreeMap<String, String>,
}

/// A new name.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RenamePeer {
    /// The new name.
    to: String,
}

/// New keys.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RekeyPeer {
    /// The key that the client has made itself; without one, a new one is made for it.
    #[schema(value_type = Option<String>)]
    public_key: Option<PublicKey>,
}

/// The validity of a link.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LinkPeer {
    /// The time for which it is valid; without one, a day. At most 30 days.
    valid_minutes: Option<u32>,
}

/// Lists the peers of the configuration.
#[utoipa::path(get, path = "/api/v1/peers", tag = "peers", responses(
    (status = 200, body = Vec<Row>),
    (status = 401, body = ErrorBody),
))]
pub(super) async fn list(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Vec<Row>>, ApiError> {
    let rows = app.worker.run(caller, rows);
    Ok(Json(rows.await??))
}

fn rows(operator: &Operator<'_>) -> Result<Vec<Row>, ApiError> {
    Ok(peers::rows(config::load(operator.path)?.config.peers))
}

/// Adds a peer, with keys and a file for its client.
#[utoipa::path(post, path = "/api/v1/peers", tag = "peers", request_body = AddPeer, responses(
    (status = 201, body = AddedPeer),
    (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody),
    (status = 422, body = ErrorBody),
))]
pub(super) async fn add(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Body(body): Body<AddPeer>,
) -> Result<(StatusCode, Json<AddedPeer>), ApiError> {
    let assignments = assignments(&body.keys)?;
    let new = NewPeer {
        assignments,
        name: body.name,
        public_key: body.public_key,
        allowed_ips: body.allowed_ips,
    };
    let added = app.worker.run(caller, move |operator| {
        let (added, live) = peers::add(operator.path, &new, Some(&operator.endpoint))?;
        Ok::<_, OperationError>(AddedPeer::of(&added, &live))
    });
    Ok((StatusCode::CREATED, Json(added.await??)))
}

/// Returns a peer of the configuration.
#[utoipa::path(get, path = "/api/v1/peers/{name}", tag = "peers", params(("name" = String, Path)), responses(
    (status = 200, body = Row),
    (status = 401, body = ErrorBody),
    (status = 404, body = ErrorBody),
))]
pub(super) async fn show(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Json<Row>, ApiError> {
    let rows = app.worker.run(caller, rows).await??;
    let mut rows = rows.into_iter();
    let row = rows.find(|row| row.name == name);
    row.map(Json).ok_or_else(|| ApiError::no_peer(&name))
}

/// Sets keys of a peer's section, as `vcgate peer set NAME KEY=VALUE`: `{"expires":"30d","note":""}`.
/// An empty value removes the key.
#[utoipa::path(patch, path = "/api/v1/peers/{name}", tag = "peers", params(("name" = String, Path)),
    request_body = BTreeMap<String, String>, responses(
    (status = 200, body = ChangedPeer),
    (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody),
    (status = 422, body = ErrorBody),
))]
pub(super) async fn set(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    Body(keys): Body<BTreeMap<String, String>>,
) -> Result<Json<ChangedPeer>, ApiError> {
    let assignments = assignments(&keys)?;
    change(app, caller, name, move |operator, name| {
        peers::set(operator.path, name, &assignments, Some(&operator.endpoint))
    })
    .await
}

fn assignments(keys: &BTreeMap<String, String>) -> Result<Vec<Assignment>, ApiError> {
    let now = SystemTime::now();
    let parsed = keys
        .iter()
        .map(|(key, value)| Assignment::parse(&format!("{key}={value}"), now));
    Ok(parsed.collect::<Result<_, _>>()?)
}

/// Gives a peer and its files another name.
#[utoipa::path(post, path = "/api/v1/peers/{name}/rename", tag = "peers", params(("name" = String, Path)),
    request_body = RenamePeer, responses(
    (status = 200, body = ChangedPeer),
    (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody),
    (status = 422, body = ErrorBody),
))]
pub(super) async fn rename(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    Body(body): Body<RenamePeer>,
) -> Result<Json<ChangedPeer>, ApiError> {
    change(app, caller, name, move |operator, name| {
        peers::rename(operator.path, name, &body.to, Some(&operator.endpoint))
    })
    .await
}

/// Gives a peer new keys: its present file can no longer connect.
#[utoipa::path(post, path = "/api/v1/peers/{name}/rekey", tag = "peers", params(("name" = String, Path)),
    request_body = RekeyPeer, responses(
    (status = 200, body = ChangedPeer),
    (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody),
    (status = 422, body = ErrorBody),
))]
pub(super) async fn rekey(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    Body(body): Body<RekeyPeer>,
) -> Result<Json<ChangedPeer>, ApiError> {
    change(app, caller, name, move |operator, name| {
        peers::rekey(
            operator.path,
            name,
            body.public_key,
            Some(&operator.endpoint),
        )
    })
    .await
}

/// Switches a peer off: it cannot connect, and its sessions and flows end.
#[utoipa::path(post, path = "/api/v1/peers/{name}/disable", tag = "peers", params(("name" = String, Path)),
    responses(
    (status = 200, body = ChangedPeer),
    (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody),
))]
pub(super) async fn disable(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Json<ChangedPeer>, ApiError> {
    switch(app, caller, name, true).await
}

/// Lets a peer connect again that was switched off.
#[utoipa::path(post, path = "/api/v1/peers/{name}/enable", tag = "peers", params(("name" = String, Path)),
    responses(
    (status = 200, body = ChangedPeer),
    (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody),
))]
pub(super) async fn enable(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Json<ChangedPeer>, ApiError> {
    switch(app, caller, name, false).await
}

async fn switch(
    app: App,
    caller: Caller,
    name: String,
    disabled: bool,
) -> Result<Json<ChangedPeer>, ApiError> {
    change(app, caller, name, move |operator, name| {
        let assignment = [Assignment::disabled(disabled)];
        peers::set(operator.path, name, &assignment, Some(&operator.endpoint))
    })
    .await
}

type Change = Result<(config::Changed, crate::operate::live::ApplyResult), OperationError>;

async fn change(
    app: App,
    caller: Caller,
    name: String,
    operation: impl FnOnce(&Operator<'_>, &str) -> Change + Send + 'static,
) -> Result<Json<ChangedPeer>, ApiError> {
    let changed = app.worker.run(caller, move |operator| {
        require(operator, &name)?;
        let (changed, live) = operation(operator, &name)?;
        Ok::<_, ApiError>(ChangedPeer::of(&changed, &live))
    });
    Ok(Json(changed.await??))
}

/// Returns an error if there is no peer of this name.
fn require(operator: &Operator<'_>, name: &str) -> Result<(), ApiError> {
    match config::load(operator.path)?.config.peer(name) {
        Some(_) => Ok(()),
        None => Err(ApiError::no_peer(name)),
    }
}

/// Removes a peer, and the files that were made for it.
#[utoipa::path(delete, path = "/api/v1/peers/{name}", tag = "peers", params(("name" = String, Path)), responses(
    (status = 200, body = RemovedPeer),
    (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody),
    (status = 422, body = ErrorBody),
))]
pub(super) async fn remove(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Json<RemovedPeer>, ApiError> {
    let removed = app.worker.run(caller, move |operator| {
        require(operator, &name)?;
        let (removed, live) = peers::remove(operator.path, &name, Some(&operator.endpoint))?;
        Ok::<_, ApiError>(RemovedPeer::of(&removed, &live))
    });
    Ok(Json(removed.await??))
}

/// Explains why a peer cannot connect, as `vcgate peer why NAME --json`.
#[utoipa::path(get, path = "/api/v1/peers/{name}/why", tag = "peers", params(("name" = String, Path)), responses(
    (status = 200, body = Explanation),
    (status = 401, body = ErrorBody),
    (status = 404, body = ErrorBody),
    (status = 409, body = ErrorBody, description = "It is disabled or expired, or the endpoint does not have it"),
))]
pub(super) async fn why(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Json<Explanation>, ApiError> {
    let explanation = app.worker.run(caller, move |operator| {
        let loaded = config::load(operator.path)?;
        Ok::<_, ApiError>(explain_peer(&loaded, &operator.endpoint, &name)?)
    });
    Ok(Json(explanation.await??))
}

/// Returns a client's file, with its private key.
#[utoipa::path(get, path = "/api/v1/peers/{name}/client", tag = "peers", params(("name" = String, Path)), responses(
    (status = 200, body = String, content_type = "text/plain"),
    (status = 401, body = ErrorBody),
    (status = 404, body = ErrorBody),
))]
pub(super) async fn file(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    let client = client(&app, caller, name).await?;
    Ok(client_file(&client.name, &client.text))
}

/// Returns a client's file as a QR code in an SVG image.
#[utoipa::path(get, path = "/api/v1/peers/{name}/qr", tag = "peers", params(("name" = String, Path)), responses(
    (status = 200, body = String, content_type = "image/svg+xml"),
    (status = 401, body = ErrorBody),
    (status = 404, body = ErrorBody),
    (status = 409, body = ErrorBody, description = "The file lacks the private key or the endpoint"),
))]
pub(super) async fn code(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    let client = client(&app, caller, name).await?;
    if !client.lacks.is_empty() {
        let message = "a code would be incomplete: the file lacks the private key or the endpoint";
        return Err(ApiError::new(StatusCode::CONFLICT, message));
    }
    let image = qr::svg(&client.text);
    let image = image.map_err(|error| ApiError::new(StatusCode::CONFLICT, error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, "image/svg+xml")], image).into_response())
}

async fn client(app: &App, caller: Caller, name: String) -> Result<Client, ApiError> {
    let client = app.worker.run(caller, move |operator| {
        require(operator, &name)?;
        let config = config::load(operator.path)?.config;
        let host = host_network::of(&config);
        Ok::<_, ApiError>(config::client(&config, &name, &host)?)
    });
    client.await?
}

/// Returns a client's file as a download.
pub(in crate::admin) fn client_file(name: &str, text: &str) -> Response {
    // Names of peers have no characters that a header would need quotes for.
    let disposition = format!("attachment; filename=\"{name}.conf\"");
    let headers: [(HeaderName, String); 2] = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8".into()),
        (header::CONTENT_DISPOSITION, disposition),
    ];
    (headers, text.to_owned()).into_response()
}

/// Makes a link by which a client's file can be fetched once, without a login.
#[utoipa::path(post, path = "/api/v1/peers/{name}/link", tag = "peers", params(("name" = String, Path)),
    request_body = LinkPeer, responses(
    (status = 201, body = LinkReport),
    (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody),
    (status = 422, body = ErrorBody),
))]
pub(super) async fn link(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    Body(body): Body<LinkPeer>,
) -> Result<(StatusCode, Json<LinkReport>), ApiError> {
    let minutes = body.valid_minutes.map(|minutes| u64::from(minutes) * 60);
    let valid = minutes.map_or(LINK_VALIDITY, Duration::from_secs);
    let link = app.worker.run(caller, move |operator| {
        require(operator, &name)?;
        Ok::<_, ApiError>(operator.endpoint.peer_link(&name, valid)?)
    });
    Ok((StatusCode::CREATED, Json(link.await??)))
}
