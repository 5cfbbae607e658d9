//! The page and API for administrators, and the listener for monitoring systems.
//!
//! ```text
//! api       the routes of the API, and its OpenAPI document
//! page      the files of the page
//! download  one-time links to client files
//! guard     the checks before each request, and the headers of each answer
//! sessions  sessions and links        attempts  the limit of failed logins
//! token     random secrets
//! worker    the thread that edits files and asks the endpoint
//! server    connections               tls       the certificate
//! ```
//!
//! Two threads serve it, so that no request reaches the data plane or delays the control plane: one
//! speaks HTTP and may open neither files nor sockets; the other carries out operations. The operations
//! are those of the commands (`operate`), and the endpoint is asked in the protocol of the control
//! socket.

mod api;
mod attempts;
mod download;
mod error;
mod guard;
mod metrics;
mod page;
mod server;
mod sessions;
mod tls;
mod token;
mod worker;

pub use download::SharedLinks;
pub use tls::TlsError;

use crate::config::{Admin, Config};
use crate::confine;
use crate::control::local::LocalSender;
use attempts::Attempts;
use sessions::Sessions;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;
use tokio_rustls::TlsAcceptor;
use worker::{Subject, Worker};

/// The reason why the page cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address cannot be bound.
    #[error("cannot listen on {address} ({key}): {source}; choose another address or port")]
    Listen {
        /// The key of the configuration.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Listeners that are bound, and not yet served.
#[derive(Default)]
pub struct Listeners {
    admin: Option<(Admin, TcpListener, Option<TlsAcceptor>)>,
    metrics: Option<TcpListener>,
}

impl Listeners {
    /// Binds the listeners of a configuration, and reads the certificate.
    ///
    /// # Errors
    /// If an address is taken, or the certificate cannot be used.
    pub fn bind(config: &Config) -> Result<Self, AdminError> {
        let mut listeners = Self::default();
        if let Some(admin) = &config.admin {
            let tls = admin.tls.as_ref().map(tls::acceptor).transpose()?;
            let listener = listen("admin.listen", admin.listen)?;
            listeners.admin = Some((admin.clone(), listener, tls));
        }
        if let Some(metrics) = &config.metrics {
            listeners.metrics = Some(listen("metrics.listen", metrics.listen)?);
        }
        Ok(listeners)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.admin.is_none() && self.metrics.is_none()
    }

    /// Starts the threads that serve the listeners until the process ends.
    ///
    /// # Errors
    /// If there is no thread.
    pub(crate) fn start(
        self,
        config: &Config,
        sender: LocalSender,
        links: SharedLinks,
    ) -> io::Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let worker = Worker::start(Subject {
            path: config.path.clone(),
            interface: config.interface.name.clone(),
            sender,
        })?;
        // Made before the thread gives up the calls for it.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let run = move || {
            confine::admin_server();
            runtime.block_on(self.serve(worker, links));
        };
        thread::Builder::new()
            .name("admin-http".into())
            .spawn(run)?;
        Ok(())
    }

    async fn serve(self, worker: Worker, links: SharedLinks) {
        let mut servers = tokio::task::JoinSet::new();
        let from_std = |listener| match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => Some(listener),
            Err(error) => {
                tracing::error!(%error, "cannot serve the admin listener; restart vcgate");
                None
            }
        };
        if let Some(listener) = self.metrics.and_then(from_std) {
            let router = metrics::router(worker.clone());
            servers.spawn(server::serve(listener, None, router));
        }
        if let Some((admin, listener, tls)) = self.admin {
            let app = App::new(admin, worker, links);
            if let Some(listener) = from_std(listener) {
                servers.spawn(server::serve(listener, tls, router(app)));
            }
        }
        // They never end.
        while servers.join_next().await.is_some() {}
    }
}

fn listen(key: &'static str, address: SocketAddr) -> Result<TcpListener, AdminError> {
    // Also while connections of the last run are closing: std sets SO_REUSEADDR.
    let bound = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    let bound = bound.map_err(|source| AdminError::Listen {
        key,
        address,
        source,
    })?;
    tracing::info!(%address, "listening ({key})");
    Ok(bound)
}

/// The state that requests share.
#[derive(Clone)]
struct App(Arc<AppState>);

struct AppState {
    admin: Admin,
    worker: Worker,
    sessions: Mutex<Sessions>,
    attempts: Mutex<Attempts>,
    links: SharedLinks,
}

impl App {
    fn new(admin: Admin, worker: Worker, links: SharedLinks) -> Self {
        Self(Arc::new(AppState {
            admin,
            worker,
            sessions: Mutex::default(),
            attempts: Mutex::new(Attempts::new(Instant::now())),
            links,
        }))
    }
}

impl std::ops::Deref for App {
    type Target = AppState;

    fn deref(&self) -> &AppState {
        &self.0
    }
}

impl AppState {
    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attempts(&self) -> MutexGuard<'_, Attempts> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether browsers reach the page by TLS, directly or through a reverse proxy.
    fn is_encrypted(&self) -> bool {
        let by_proxy = |url: &crate::config::AdminUrl| url.text.starts_with("https://");
        self.admin.tls.is_some() || self.admin.url.as_ref().is_some_and(by_proxy)
    }
}

/// Returns all routes: the page, the API, and one-time links.
fn router(app: App) -> axum::Router {
    let (api, _) = api::router(&app).split_for_parts();
    api.merge(page::router())
        .merge(download::router(app.clone()))
        .layer(axum::middleware::from_fn_with_state(app, guard::protect))
}

#[cfg(test)]
mod tests;
