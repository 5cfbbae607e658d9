//! Serves HTTP/1.1 on a listener, with or without TLS, and limits what a client can hold: the number
//! of connections, the time of a handshake, of a request's header, and of an answer.
//!
//! It knows no routes.

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

/// Maximum number of connections of a listener.
const MAX_CONNECTIONS: usize = 128;
/// Maximum time of a TLS handshake, and of a request's header.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum time of a connection: browsers open another one.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(300);
/// Time before the next attempt when the system has no descriptor for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Maximum size of a request's header in bytes.
const MAX_HEADER: usize = 32 * 1024;

/// The address of the client of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Remote(pub SocketAddr);

/// Serves connections until the future is dropped.
pub(super) async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    router: Router,
) -> Infallible {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let permit = permits.clone().acquire_owned().await;
        let (stream, remote) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "cannot accept a connection of the admin listener");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (tls, router) = (tls.clone(), router.clone());
        tokio::spawn(async move {
            let _permit = permit;
            let _ = stream.set_nodelay(true);
            let served = timeout(CONNECTION_TIMEOUT, async {
                match tls {
                    None => serve_connection(stream, remote, router).await,
                    Some(tls) => {
                        let accepted = timeout(HEADER_TIMEOUT, tls.accept(stream)).await;
                        if let Ok(Ok(stream)) = accepted {
                            serve_connection(stream, remote, router).await;
                        }
                    }
                }
            });
            let _ = served.await;
        });
    }
}

async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    remote: SocketAddr,
    router: Router,
) {
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let mut request: Request = request.map(axum::body::Body::new);
        request.extensions_mut().insert(Remote(remote));
        TowerToHyperService::new(router.clone()).call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEADER)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, %remote, "a connection of the admin listener ended");
    }
}
