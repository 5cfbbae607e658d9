//! Logs administrators in and out.

use super::super::error::{ApiError, ErrorBody};
use super::super::token::Token;
use super::super::worker::Caller;
use super::super::{App, guard};
use super::Body;
use crate::password;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use std::time::Instant;
use utoipa::ToSchema;
use zeroize::Zeroizing;

/// The name of the administrator who logs in by the password.
const USER: &str = "admin";

/// The present session.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SessionReport {
    /// The administrator's name.
    user: String,
    /// The value of the header `X-CSRF-Token` of changes.
    csrf_token: String,
}

/// A login.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Login {
    /// The administrator's password.
    password: String,
}

/// Returns the present session; behind a reverse proxy that logs users in, it begins one.
#[utoipa::path(get, path = "/api/v1/session", tag = "login", responses(
    (status = 200, body = SessionReport),
    (status = 401, body = ErrorBody),
))]
pub(super) async fn session(
    State(app): State<App>,
    request: Request,
) -> Result<Response, ApiError> {
    let headers = request.headers();
    let user = guard::proxy_user(&app.admin, guard::remote(&request), headers);
    let now = Instant::now();
    let present = guard::cookie(headers).and_then(|id| app.sessions().use_session(id, now));
    match (present, user) {
        (Some(session), user) if !session.by_proxy || user.as_ref() == Some(&session.user) => {
            let report = SessionReport {
                user: session.user,
                csrf_token: session.csrf.as_str().to_owned(),
            };
            Ok(Json(report).into_response())
        }
        (_, Some(user)) => begin(&app, user, true),
        (_, None) => Err(ApiError::unauthorized()),
    }
}

/// Logs in with the password, and begins a session.
#[utoipa::path(post, path = "/api/v1/session", tag = "login", request_body = Login, responses(
    (status = 200, body = SessionReport),
    (status = 401, body = ErrorBody, description = "The password is wrong"),
    (status = 422, body = ErrorBody),
    (status = 429, body = ErrorBody, description = "Too many logins have failed"),
))]
pub(super) async fn login(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    use axum::extract::FromRequest as _;
    let source = guard::source(&app.admin, &request);
    let Body(Login { password }) = Body::from_request(request, &app).await?;
    let password = Zeroizing::new(password);
    let now = Instant::now();
    app.attempts()
        .begin(source, now)
        .map_err(ApiError::too_many)?;
    let Some(hash) = app.admin.password_hash.clone() else {
        let message = "there is no password: set admin.password_hash";
        return Err(ApiError::new(StatusCode::UNAUTHORIZED, message));
    };
    let caller = Caller {
        user: USER.to_owned(),
        source,
    };
    let verify = app
        .worker
        .run(caller, move |_| password::verify(&password, &hash));
    if !verify.await? {
        tracing::warn!(%source, "a login with a wrong password was refused");
        return Err(ApiError::new(
            StatusCode::UNAUTHORIZED,
            "the password is wrong",
        ));
    }
    app.attempts().succeeded(source, now);
    tracing::info!(target: crate::logging::AUDIT, %source, "{USER} has logged in to the page");
    begin(&app, USER.to_owned(), false)
}

/// Logs out: ends the session.
#[utoipa::path(delete, path = "/api/v1/session", tag = "login", responses(
    (status = 204),
    (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody),
))]
pub(super) async fn session_end(
    State(app): State<App>,
    Extension(_): Extension<Caller>,
    headers: HeaderMap,
) -> Response {
    if let Some(id) = guard::cookie(&headers) {
        app.sessions().end(id);
    }
    let cookie = guard::set_cookie(None, app.is_encrypted());
    (StatusCode::NO_CONTENT, [(header::SET_COOKIE, cookie)]).into_response()
}

fn begin(app: &App, user: String, by_proxy: bool) -> Result<Response, ApiError> {
    let random = || {
        Token::random().map_err(|error| {
            let message = format!("cannot get random bytes from the system: {error}");
            ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message)
        })
    };
    let (id, csrf) = (random()?, random()?);
    let report = SessionReport {
        user: user.clone(),
        csrf_token: csrf.as_str().to_owned(),
    };
    let cookie = guard::set_cookie(Some(&id), app.is_encrypted());
    app.sessions()
        .begin(id, user, csrf, by_proxy, Instant::now());
    Ok(([(header::SET_COOKIE, cookie)], Json(report)).into_response())
}
