//! The log on stderr. Writing a line never blocks the thread that logs it, and no client can fill
//! the log.
//!
//! ```text
//! journal  the format of lines for systemd's journal
//! queue    lines that wait for stderr: bounded, and written by a separate thread
//! changes  the last changes, for the administration page
//! limit    the maximum rate of lines of one kind about one peer
//! ```
//!
//! It never decides which events are logged.

pub mod changes;
pub mod journal;
mod limit;
mod queue;

use crate::confine;
use limit::Limit;
use queue::Queue;
use std::borrow::Cow;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

/// The target of events that record changes and their authors. They are not limited.
pub const AUDIT: &str = "vcgate::audit";

/// Maximum time that the end of the process waits for stderr.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The format of the log.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The level, or the directives of an [`EnvFilter`].
    pub filter: String,
    /// Whether each line is a JSON object.
    pub json: bool,
    /// Whether lines are coloured.
    pub ansi: bool,
}

/// The error for a text that is not a filter.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a log filter; write \"debug\" or \"info,vcgate_core::tunnel=debug\"")]
pub struct FilterError(String);

/// A handle to the running log.
#[derive(Clone)]
pub struct Log {
    queue: Option<Arc<Queue>>,
    limit: Arc<Limit>,
    filter: reload::Handle<EnvFilter, Registry>,
    text: Arc<Mutex<String>>,
}

impl Log {
    /// Starts the log of a short command, which may wait for the reader of stderr.
    ///
    /// # Errors
    /// If this process has a log already.
    pub fn start(settings: &Settings) -> Result<Self, TryInitError> {
        Self::start_with(settings, None)
    }

    /// Starts the log of the endpoint: a thread writes it, and a panic is logged like everything
    /// else.
    ///
    /// # Errors
    /// If this process has a log already, or no thread can be started.
    pub fn start_in_background(settings: &Settings) -> io::Result<Self> {
        let queue = Arc::new(Queue::default());
        let log = Self::start_with(settings, Some(queue.clone())).map_err(io::Error::other)?;
        let limit = log.limit.clone();
        let write = move || {
            confine::log();
            queue.run(io::stderr(), report_lost, || limit.report());
        };
        std::thread::Builder::new()
            .name("log".into())
            .spawn(write)?;
        std::panic::set_hook(Box::new(|panic| {
            let trace = std::backtrace::Backtrace::capture();
            tracing::error!("{panic}; please report this defect\n{trace}");
        }));
        Ok(log)
    }

    fn start_with(settings: &Settings, queue: Option<Arc<Queue>>) -> Result<Self, TryInitError> {
        let (filter, handle) = reload::Layer::new(EnvFilter::new(&settings.filter));
        let limit = Arc::new(Limit::new(queue.clone()));
        // An error in writing the log must not become a panic in reporting it.
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(Target(queue.clone()))
            .with_ansi(settings.ansi)
            .log_internal_errors(false);
        let lines = match settings.json {
            true => lines.json().boxed(),
            false if journal::reads_stderr() => {
                lines.event_format(journal::Lines::default()).boxed()
            }
            false => lines.with_target(false).boxed(),
        };
        let subscriber = tracing_subscriber::registry()
            .with(filter)
            .with(limit::Filtering(limit.clone()))
            .with(changes::Remember);
        subscriber.with(lines).try_init()?;
        Ok(Self {
            queue,
            limit,
            filter: handle,
            text: Arc::new(Mutex::new(settings.filter.clone())),
        })
    }

    /// Returns the filter in force.
    pub fn filter(&self) -> String {
        self.text
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Replaces the filter.
    ///
    /// # Errors
    /// If the text is not a filter; the present one stays in force then.
    pub fn set_filter(&self, text: &str) -> Result<(), FilterError> {
        let filter = parse_filter(text)?;
        let refused = |_| FilterError(text.to_owned());
        self.filter.reload(filter).map_err(refused)?;
        *self.text.lock().unwrap_or_else(PoisonError::into_inner) = text.to_owned();
        Ok(())
    }

    /// Writes a line that is not an event.
    pub fn write_line(&self, line: &str) {
        // If this fails, there is no way to report it.
        let _ = writeln!(Target(self.queue.clone()), "{line}");
    }

    /// Waits until all lines are written, but no longer than a second.
    pub fn flush(&self) {
        if let Some(queue) = &self.queue {
            self.limit.report_all();
            queue.wait_until_written(FLUSH_TIMEOUT);
        }
    }
}

/// Reads a filter: a level, or directives.
///
/// # Errors
/// If the text is empty or not a filter.
pub fn parse_filter(text: &str) -> Result<EnvFilter, FilterError> {
    let error = || FilterError(text.to_owned());
    // To the library, any word is the name of a module, and a level with a typo would log nothing.
    let is_plausible = |word: &str| {
        let is_module = word.contains("::") || word.starts_with("vcgate") || word == "boringtun";
        word.contains(['=', '[']) || is_module || word.parse::<LevelFilter>().is_ok()
    };
    if text.trim().is_empty() || !text.split(',').map(str::trim).all(is_plausible) {
        return Err(error());
    }
    EnvFilter::try_new(text).map_err(|_| error())
}

/// Excludes boringtun from a filter that does not name it: it reports an idle peer as an error. The
/// tunnel logs the relevant events itself.
pub fn without_boringtun(filter: &str) -> Cow<'_, str> {
    match filter.is_empty() || filter.contains("boringtun") {
        true => filter.into(),
        false => format!("{filter},boringtun=off").into(),
    }
}

fn report_lost(lines: u64) {
    tracing::warn!(
        "cannot write {lines} lines of the log: the reader of stderr was too slow; read it faster, \
         or lower the level with `vcgate log level warn`"
    );
}

/// Stderr, directly or through the queue.
#[derive(Clone)]
struct Target(Option<Arc<Queue>>);

impl Write for Target {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match &self.0 {
            Some(queue) => {
                queue.push(line);
                Ok(line.len())
            }
            None => io::stderr().write(line),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Target {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_filter_that_names_boringtun_shows_it() {
        for (filter, expected) in [
            ("info", "info,boringtun=off"),
            (
                "vcgate_core::smb=debug",
                "vcgate_core::smb=debug,boringtun=off",
            ),
            ("info,boringtun=debug", "info,boringtun=debug"),
            ("boringtun::noise=trace", "boringtun::noise=trace"),
        ] {
            assert_eq!(without_boringtun(filter), expected);
            assert!(parse_filter(&without_boringtun(filter)).is_ok());
        }
        for filter in ["", " ", "vcgate=loud", "a=b=c", "inof", "info,bebug"] {
            let error = parse_filter(filter).unwrap_err().to_string();
            assert!(error.contains("is not a log filter; write"), "{error}");
        }
    }
}
