//! The author of a change: the user and process that sent a request, or the endpoint's own reason. It
//! is in the span of log lines, and available to the audit log while the request is carried out.

use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio::task_local;
use tracing::{Instrument as _, Span};

task_local! {
    static CURRENT: Caller;
}

/// The author of a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// The kind of program or the reason: `command`, `wg`, `admin`, `SIGHUP`, `expires`.
    pub by: String,
    /// The user, as the kernel reports it (SO_PEERCRED).
    pub uid: Option<u32>,
    /// The process.
    pub pid: Option<i32>,
    /// The administrator, if one has logged in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

impl Caller {
    /// Names the process at the other end of a socket.
    pub(super) fn of(stream: &UnixStream, by: &str) -> Self {
        let credentials = stream.peer_cred().ok();
        Self {
            by: by.to_owned(),
            uid: credentials.map(|credentials| credentials.uid()),
            pid: credentials.and_then(|credentials| credentials.pid()),
            user: None,
        }
    }

    /// Names a reason inside of the endpoint.
    pub fn internal(by: &str) -> Self {
        Self {
            by: by.to_owned(),
            uid: None,
            pid: None,
            user: None,
        }
    }

    /// Names an administrator.
    pub(super) fn admin(user: &str) -> Self {
        Self {
            user: Some(user.to_owned()),
            ..Self::internal("admin")
        }
    }

    /// Runs a future on behalf of this caller: log lines in it name the caller, too.
    pub async fn run<F: Future>(&self, future: F) -> F::Output {
        let Self { by, uid, pid, .. } = self;
        let span = tracing::info_span!("caller", by, uid, pid);
        self.run_within(span, future).await
    }

    /// Runs a future on behalf of this caller, whom another span names in log lines.
    pub(super) async fn run_within<F: Future>(&self, span: Span, future: F) -> F::Output {
        CURRENT.scope(self.clone(), future).instrument(span).await
    }

    /// Returns the caller on whose behalf the present task runs.
    pub fn current() -> Self {
        let current = CURRENT.try_with(Self::clone);
        current.unwrap_or_else(|_| Self::internal("endpoint"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_caller_is_known_while_its_request_runs() {
        assert_eq!(Caller::current().by, "endpoint");
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let caller = Caller::of(&ours, "wg");
        assert_eq!(caller.pid, Some(std::process::id() as i32));
        let seen = caller.run(async { Caller::current() }).await;
        assert_eq!(seen, caller);
        assert_eq!(Caller::current().by, "endpoint");
    }
}
