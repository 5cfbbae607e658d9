//! Reports about the running endpoint: those of `vcgate status`, `flows`, `smb` and `doctor`.

use super::super::App;
use super::super::error::{ApiError, ErrorBody};
use super::super::worker::{Caller, Operator};
use crate::config;
use crate::control::report::{Flow, SmbReport, Status};
use crate::control::timeline::Timeline;
use crate::doctor::{self, Check};
use crate::logging::changes::Change;
use crate::operate::checkup;
use axum::extract::{Query, State};
use axum::{Extension, Json};
use serde::Deserialize;
use utoipa::IntoParams;

/// The beginning of a list of events.
#[derive(Debug, Deserialize, IntoParams)]
pub(super) struct From {
    /// The number of the first entry.
    #[serde(default)]
    from: u64,
}

/// Returns a summary of the endpoint and the state of all peers, as `vcgate status --json`.
#[utoipa::path(get, path = "/api/v1/status", tag = "reports", responses(
    (status = 200, body = Status),
    (status = 401, body = ErrorBody),
))]
pub(super) async fn status(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Status>, ApiError> {
    let status = app
        .worker
        .run(caller, |operator| operator.endpoint.status());
    Ok(Json(status.await??))
}

/// Returns all translated flows, as `vcgate flows --json`.
#[utoipa::path(get, path = "/api/v1/flows", tag = "reports", responses(
    (status = 200, body = Vec<Flow>),
    (status = 401, body = ErrorBody),
))]
pub(super) async fn flows(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Vec<Flow>>, ApiError> {
    let flows = app.worker.run(caller, |operator| operator.endpoint.flows());
    Ok(Json(flows.await??))
}

/// Returns the counters and flows of the SMB hook, as `vcgate smb --json`.
#[utoipa::path(get, path = "/api/v1/smb", tag = "reports", responses(
    (status = 200, body = SmbReport),
    (status = 401, body = ErrorBody),
))]
pub(super) async fn smb(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<SmbReport>, ApiError> {
    let smb = app.worker.run(caller, |operator| operator.endpoint.smb());
    Ok(Json(smb.await??))
}

/// Returns the events on flows to file servers, as `vcgate smb --follow`: the first request has no
/// `from`, each further one the `next` of the last answer.
#[utoipa::path(get, path = "/api/v1/smb/timeline", tag = "reports", params(From), responses(
    (status = 200, body = Timeline),
    (status = 400),
    (status = 401, body = ErrorBody),
))]
pub(super) async fn timeline(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Query(From { from }): Query<From>,
) -> Result<Json<Timeline>, ApiError> {
    let read = move |operator: &Operator<'_>| operator.endpoint.timeline(from);
    Ok(Json(app.worker.run(caller, read).await??))
}

/// Checks the surroundings of the running endpoint, as `vcgate doctor --json`.
#[utoipa::path(get, path = "/api/v1/doctor", tag = "reports", responses(
    (status = 200, body = Vec<Check>),
    (status = 401, body = ErrorBody),
))]
pub(super) async fn doctor(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Vec<Check>>, ApiError> {
    let checks = app.worker.run(caller, check_surroundings);
    Ok(Json(checks.await??))
}

fn check_surroundings(operator: &Operator<'_>) -> Result<Vec<Check>, ApiError> {
    let subject = checkup::subject(&config::load(operator.path)?);
    let status = operator.endpoint.status()?;
    let mut checks = checkup::surroundings(&subject).map_err(|error| {
        let message = format!("cannot check this machine: {error}");
        ApiError::new(axum::http::StatusCode::SERVICE_UNAVAILABLE, message)
    })?;
    checks.extend(
        status
            .confinement
            .iter()
            .flat_map(doctor::confinement_checks),
    );
    Ok(checks)
}

/// Returns the last changes with their authors, newest first.
#[utoipa::path(get, path = "/api/v1/changes", tag = "reports", responses(
    (status = 200, body = Vec<Change>),
    (status = 401, body = ErrorBody),
))]
pub(super) async fn changes(Extension(_): Extension<Caller>) -> Json<Vec<Change>> {
    Json(crate::logging::changes::recent())
}

/// Makes the endpoint read its configuration again, as `vcgate reload --json`.
#[utoipa::path(post, path = "/api/v1/reload", tag = "reports", responses(
    (status = 200, description = "The changes, as of `vcgate reload --json`"),
    (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody),
))]
pub(super) async fn reload(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<crate::control::reload::Reload>, ApiError> {
    let reload = app
        .worker
        .run(caller, |operator| operator.endpoint.reload());
    Ok(Json(reload.await??))
}
