//! `/metrics` for monitoring systems: Prometheus' text format, or OpenMetrics if the request accepts
//! it. It needs no login and shows nothing else.

use super::error::ApiError;
use super::worker::{Caller, Worker};
use crate::control::metrics::{self, Format};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Extension, Router};
use std::net::{IpAddr, Ipv4Addr};

use super::server::Remote;

/// Returns the route.
pub(super) fn router(worker: Worker) -> Router {
    Router::new()
        .route("/metrics", get(answer))
        .with_state(worker)
}

async fn answer(
    State(worker): State<Worker>,
    remote: Option<Extension<Remote>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let format = accepted(&headers);
    let unknown = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let caller = Caller {
        user: "metrics".into(),
        source: remote.map_or(unknown, |Extension(Remote(remote))| remote.ip()),
    };
    let status = worker.run(caller, |operator| operator.endpoint.status());
    let text = metrics::of(&status.await??, format)
        .map_err(|error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, content_type(format))], text).into_response())
}

/// Returns the format that a request prefers, by the quality values of its header Accept (RFC 9110
/// section 12.5.1). Without a preference it is Prometheus' own.
fn accepted(headers: &HeaderMap) -> Format {
    let lines = headers.get_all(header::ACCEPT).iter();
    let ranges = lines.filter_map(|line| line.to_str().ok());
    let (mut open, mut plain) = (0.0, 0.0);
    for range in ranges.flat_map(|line| line.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
        let quality = parts.find_map(|part| part.strip_prefix("q="));
        let quality: f32 = quality.map_or(1.0, |q| q.parse().unwrap_or(0.0));
        match kind.as_str() {
            "application/openmetrics-text" => open = quality.max(open),
            "text/plain" | "text/*" | "*/*" => plain = quality.max(plain),
            _ => {}
        }
    }
    match open > plain {
        true => Format::OpenMetrics,
        false => Format::Prometheus,
    }
}

fn content_type(format: Format) -> &'static str {
    match format {
        Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn openmetrics_is_served_to_those_that_prefer_it() {
        // The first is what Prometheus 2.53 sends.
        for (accept, format) in [
            (
                "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;\
                 version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                Format::OpenMetrics,
            ),
            (
                "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                Format::Prometheus,
            ),
            (
                "application/openmetrics-text;q=0.2, text/plain;q=0.5",
                Format::Prometheus,
            ),
            ("application/openmetrics-text", Format::OpenMetrics),
            ("*/*", Format::Prometheus),
            ("nonsense;q=x", Format::Prometheus),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            assert_eq!(accepted(&headers), format, "{accept}");
        }
        assert_eq!(accepted(&HeaderMap::new()), Format::Prometheus);
    }
}
