//! What happens while a command runs, told on stderr.

use super::{GLOBAL, Usage, output};
use clap::{ArgAction, Args, ValueEnum};
use vcgate::logging::{self, Log, Settings};

/// How much is told, and in which form.
#[derive(Args)]
pub struct LogArguments {
    /// How the log is written
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text", help_heading = GLOBAL)]
    log_format: Format,
    /// Tell more; twice, what the libraries say, too. VCGATE_LOG or RUST_LOG may say it in detail
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "quiet", help_heading = GLOBAL)]
    verbose: u8,
    /// Tell only warnings and errors; twice, only errors
    #[arg(short, long, global = true, action = ArgAction::Count, help_heading = GLOBAL)]
    quiet: u8,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// Starts the log; `background` keeps it from ever holding up the process. An option wins over
/// VCGATE_LOG, which wins over RUST_LOG.
pub fn start(arguments: &LogArguments, background: bool) -> anyhow::Result<Log> {
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
        // The error names what was given.
        logging::parse_filter(&value).map_err(|error| Usage(format!("{name}: {error}")))?;
        return Ok(logging::without_boringtun(&value).into_owned());
    }
    Ok("info,boringtun=off".into())
}
