//! Messages to the service manager that started the endpoint (sd_notify(3)), if one waits for them.
//! It never fails: a manager that cannot be reached is logged.

use sd_notify::NotifyState;

/// Reports that clients can connect.
pub(super) fn ready() {
    send(NotifyState::Ready);
}

/// Reports that the endpoint ends.
pub(super) fn stopping() {
    send(NotifyState::Stopping);
}

fn send(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(
            %error,
            "cannot report to the service manager; it may stop the service, look at NOTIFY_SOCKET"
        );
    }
}
