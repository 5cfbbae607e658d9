//! The log options of all commands, and `vcgate log level`.

use super::{GLOBAL, Usage, output};
use clap::{ArgAction, Args, ValueEnum};
use vcgate::control::client::Client;
use vcgate::logging::{self, Log, Settings};

/// The options that select the log's level and format.
#[derive(Args)]
pub(super) struct LogArguments {
    /// The format of the log
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text", help_heading = GLOBAL)]
    log_format: Format,
    /// Log more; twice, with the libraries' events. VCGATE_LOG or RUST_LOG may set a filter instead
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "quiet", help_heading = GLOBAL)]
    verbose: u8,
    /// Log only warnings and errors; twice, only errors
    #[arg(short, long, global = true, action = ArgAction::Count, help_heading = GLOBAL)]
    quiet: u8,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// Starts the log, with `background` by a thread of its own that never blocks the process. An option
/// takes precedence over VCGATE_LOG, which takes precedence over RUST_LOG.
pub(super) fn start(arguments: &LogArguments, background: bool) -> anyhow::Result<Log> {
    let level = match (arguments.verbose, arguments.quiet) {
        (0, 0) => None,
        (0, 1) => Some("warn,boringtun=off"),
        (0, _) => Some("error,boringtun=off"),
        (1, _) => Some("debug,boringtun=off"),
        (_, _) => Some("trace"),
    };
    let settings = Settings {
        filter: match level {
            Some(level) => level.into(),
            None => from_environment()?,
        },
        json: matches!(arguments.log_format, Format::Json),
        ansi: output::stderr_has_colours(),
    };
    let log = match background {
        true => Log::start_in_background(&settings)?,
        false => Log::start(&settings)?,
    };
    output::use_log(log.clone(), settings.json);
    Ok(log)
}

fn from_environment() -> Result<String, Usage> {
    for name in ["VCGATE_LOG", "RUST_LOG"] {
        let value = std::env::var(name).unwrap_or_default();
        if value.is_empty() {
            continue;
        }
        // Parsed before boringtun is added, so that the error shows the user's text.
        logging::parse_filter(&value).map_err(|error| Usage(format!("{name}: {error}")))?;
        return Ok(logging::without_boringtun(&value).into_owned());
    }
    Ok("info,boringtun=off".into())
}

/// Sets the level of the running endpoint, if one is given, and prints the level in force.
pub(super) fn level(endpoint: &Client, level: Option<String>) -> anyhow::Result<()> {
    let level = endpoint.log_level(level)?;
    let level = level.strip_suffix(",boringtun=off").unwrap_or(&level);
    output::print(&format!("{level}\n"))
}
