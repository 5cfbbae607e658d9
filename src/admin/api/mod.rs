//! The routes of the API, `/api/v1/…`, and its OpenAPI document. Both come from one list, so that
//! they cannot differ.
//!
//! ```text
//! login    logs in and out
//! peers    lists, adds, changes and removes peers, and hands out their files
//! observe  reports about the running endpoint
//! ```

mod login;
mod observe;
mod peers;

pub(super) use peers::client_file;

use super::error::ApiError;
use super::{App, guard};
use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, FromRequest};
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use utoipa::OpenApi;
use utoipa::openapi::{Content, Ref, ResponseBuilder};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Maximum size of a request's body in bytes.
const MAX_BODY: usize = 64 * 1024;

/// The errors that any route can have.
const COMMON_ERRORS: [(&str, &str); 7] = [
    ("400", "The request cannot be parsed"),
    ("408", "The request took too long"),
    ("413", "The body is too large"),
    ("415", "The body is not JSON"),
    ("421", "The header Host has another name than the page"),
    ("429", "Too many logins have failed"),
    (
        "503",
        "Too many operations wait, or the endpoint does not answer",
    ),
];

/// The head of the document.
#[derive(OpenApi)]
#[openapi(info(
    title = "vcgate",
    description = "The operations of the command line on a running endpoint. Scripts send the header \
                   `Authorization: Bearer TOKEN`; browsers have a session's cookie, and repeat its CSRF \
                   token in the header `X-CSRF-Token` of each change. Errors are \
                   `{\"error\":{\"message\":…,\"remedy\":…}}`."
))]
struct Document;

/// Returns all routes.
pub(super) fn router(app: &App) -> OpenApiRouter {
    let protected = OpenApiRouter::new()
        .routes(routes!(login::session_end))
        .routes(routes!(peers::list, peers::add))
        .routes(routes!(peers::show, peers::set, peers::remove))
        .routes(routes!(peers::rename))
        .routes(routes!(peers::rekey))
        .routes(routes!(peers::disable))
        .routes(routes!(peers::enable))
        .routes(routes!(peers::why))
        .routes(routes!(peers::file))
        .routes(routes!(peers::code))
        .routes(routes!(peers::link))
        .routes(routes!(observe::status))
        .routes(routes!(observe::flows))
        .routes(routes!(observe::smb))
        .routes(routes!(observe::timeline))
        .routes(routes!(observe::doctor))
        .routes(routes!(observe::changes))
        .routes(routes!(observe::reload))
        .layer(from_fn_with_state(app.clone(), guard::authenticate));
    let open = OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(login::session))
        .routes(routes!(login::login));
    let mut router = open
        .merge(protected)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(app.clone());
    let mut document = router.to_openapi();
    add_common_errors(&mut document);
    let document = Json(document);
    router
        .route("/api/v1/openapi.json", get(move || async move { document }))
        .route("/api/{*path}", get(missing).fallback(missing))
}

/// Adds the errors that any route can have: of the checks before it, and of its body.
fn add_common_errors(document: &mut utoipa::openapi::OpenApi) {
    for item in document.paths.paths.values_mut() {
        let operations = [
            &mut item.get,
            &mut item.post,
            &mut item.patch,
            &mut item.delete,
        ];
        for operation in operations.into_iter().flatten() {
            for (status, meaning) in COMMON_ERRORS {
                let error = Content::new(Some(Ref::from_schema_name("ErrorBody")));
                let response = ResponseBuilder::new()
                    .description(meaning)
                    .content("application/json", error);
                let responses = &mut operation.responses.responses;
                let added = responses.entry(status.to_owned());
                added.or_insert_with(|| response.build().into());
            }
        }
    }
}

async fn missing() -> ApiError {
    ApiError::new(
        StatusCode::NOT_FOUND,
        "there is no such route; see /api/v1/openapi.json",
    )
}

/// A body as JSON; an invalid one is an error as JSON.
struct Body<T>(T);

impl<S: Send + Sync, T: serde::de::DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: axum::extract::Request, state: &S) -> Result<Self, ApiError> {
        let parsed = Json::from_request(request, state).await;
        let Json(body) = parsed.map_err(|rejection: JsonRejection| {
            ApiError::new(rejection.status(), rejection.body_text())
        })?;
        Ok(Self(body))
    }
}
