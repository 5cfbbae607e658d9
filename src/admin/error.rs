//! Errors of the API: a status code, and the cause and remedy as JSON, as on the control socket.

use super::worker::Busy;
use crate::config::{Diagnostic, Problems};
use crate::control::client::ClientError;
use crate::control::endpoint::Refusal;
use crate::operate::OperationError;
use crate::operate::why::WhyError;
use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::time::Duration;
use utoipa::ToSchema;

/// The body of an error.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ErrorBody {
    error: ErrorText,
}

/// The cause and the remedy of an error.
#[derive(Debug, Serialize, ToSchema)]
struct ErrorText {
    /// The cause.
    message: String,
    /// The remedy, if it is not part of the message.
    remedy: Option<String>,
}

/// An error of the API.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    message: String,
    remedy: Option<String>,
    retry_after: Option<Duration>,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            remedy: None,
            retry_after: None,
        }
    }

    /// There is no session, or no right token.
    pub(super) fn unauthorized() -> Self {
        Self {
            remedy: Some("log in, or send the header Authorization: Bearer TOKEN".into()),
            ..Self::new(StatusCode::UNAUTHORIZED, "not logged in")
        }
    }

    /// Too many logins have failed.
    pub(super) fn too_many(wait: Duration) -> Self {
        // Rounded up, so that the next attempt is not too early.
        let seconds = wait.as_secs() + 1;
        Self {
            retry_after: Some(Duration::from_secs(seconds)),
            remedy: Some(format!("wait {seconds} seconds")),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, "too many logins have failed")
        }
    }

    pub(super) fn no_peer(name: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("there is no peer {name:?}"))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = ErrorBody {
            error: ErrorText {
                message: self.message,
                remedy: self.remedy,
            },
        };
        let mut response = (self.status, Json(body)).into_response();
        if let Some(wait) = self.retry_after {
            let seconds = HeaderValue::from(wait.as_secs());
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}

impl From<Busy> for ApiError {
    fn from(_: Busy) -> Self {
        Self {
            remedy: Some("try again".into()),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "too many operations wait")
        }
    }
}

impl From<Problems> for ApiError {
    fn from(problems: Problems) -> Self {
        match problems.errors.as_slice() {
            [only] => only.wrong.clone().into(),
            _ => Self::new(StatusCode::UNPROCESSABLE_ENTITY, problems.to_string()),
        }
    }
}

impl From<Diagnostic> for ApiError {
    fn from(wrong: Diagnostic) -> Self {
        Self {
            remedy: Some(wrong.remedy),
            ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, wrong.what)
        }
    }
}

impl From<ClientError> for ApiError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Refused(Refusal { message, remedy }) => Self {
                remedy,
                ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, message)
            },
            error => Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
        }
    }
}

impl From<OperationError> for ApiError {
    fn from(error: OperationError) -> Self {
        match error {
            OperationError::Invalid(problems) => problems.into(),
            OperationError::Endpoint(error) => error.into(),
        }
    }
}

impl From<WhyError> for ApiError {
    fn from(error: WhyError) -> Self {
        match error {
            WhyError::NoPeer(name) => Self::no_peer(&name),
            WhyError::Endpoint(error) => error.into(),
            error @ (WhyError::Inactive(_) | WhyError::NotRunning(_)) => {
                Self::new(StatusCode::CONFLICT, error.to_string())
            }
            error @ WhyError::Check(_) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
            }
        }
    }
}
