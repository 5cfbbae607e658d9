//! The thread that carries out the operations of the API: it edits the configuration and waits for
//! the endpoint's answers, so that the thread that serves connections never waits and needs no files.
//!
//! One operation runs at a time. It knows neither HTTP nor sessions.

use crate::confine;
use crate::control::client::Client;
use crate::control::local::LocalSender;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use tokio::sync::oneshot;

/// Maximum number of operations that wait.
const QUEUE: usize = 32;

/// An administrator, for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Caller {
    /// The name.
    pub user: String,
    /// The address of the browser or script.
    pub source: IpAddr,
}

/// The subject of operations.
#[derive(Debug)]
pub(super) struct Subject {
    /// The configuration file.
    pub path: PathBuf,
    /// The interface's name.
    pub interface: String,
    /// The running endpoint.
    pub sender: LocalSender,
}

/// The subject of an operation.
#[derive(Debug)]
pub(super) struct Operator<'a> {
    /// The configuration file.
    pub path: &'a Path,
    /// The running endpoint, on behalf of the caller.
    pub endpoint: Client,
}

type Job = Box<dyn FnOnce(&Subject) + Send>;

/// The queue to the thread.
#[derive(Debug, Clone)]
pub(super) struct Worker(SyncSender<Job>);

/// Too many operations wait, or the thread has ended.
#[derive(Debug)]
pub(super) struct Busy;

impl Worker {
    /// Starts the thread, which confines itself.
    ///
    /// # Errors
    /// If there is no thread.
    pub(super) fn start(subject: Subject) -> io::Result<Self> {
        let (worker, jobs) = Self::new();
        let run = move || {
            confine::admin_worker(&subject.path);
            serve(&jobs, &subject);
        };
        thread::Builder::new()
            .name("admin-work".into())
            .spawn(run)?;
        Ok(worker)
    }

    fn new() -> (Self, Receiver<Job>) {
        let (sender, jobs) = sync_channel(QUEUE);
        (Self(sender), jobs)
    }

    /// Starts a thread without confinement, for tests.
    #[cfg(test)]
    pub(super) fn start_free(subject: Subject) -> Self {
        let (worker, jobs) = Self::new();
        thread::spawn(move || serve(&jobs, &subject));
        worker
    }

    /// Carries out an operation on behalf of a caller.
    ///
    /// # Errors
    /// If too many operations wait.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        caller: Caller,
        operation: impl FnOnce(&Operator<'_>) -> T + Send + 'static,
    ) -> Result<T, Busy> {
        let (answer, answered) = oneshot::channel();
        let job = move |subject: &Subject| {
            let Caller { user, source } = caller;
            let span = tracing::info_span!("caller", by = "admin", user, %source);
            let caller = subject.sender.caller(span.clone(), &user);
            let operator = Operator {
                path: &subject.path,
                endpoint: Client::local(&subject.interface, caller),
            };
            // The caller may have gone away.
            let _ = answer.send(span.in_scope(|| operation(&operator)));
        };
        self.0.try_send(Box::new(job)).map_err(|_| Busy)?;
        answered.await.map_err(|_| Busy)
    }
}

fn serve(jobs: &Receiver<Job>, subject: &Subject) {
    while let Ok(job) = jobs.recv() {
        job(subject);
    }
}
