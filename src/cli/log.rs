//! What happens while a command runs, told on stderr.

use super::{GLOBAL, Usage, output};
use clap::{ArgAction, Args, ValueEnum};
use std::borrow::Cow;
use std::io;
use tracing_subscriber::EnvFilter;

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

/// Starts telling. An option wins over VCGATE_LOG, which wins over RUST_LOG.
pub fn start(arguments: &LogArguments) -> anyhow::Result<()> {
    let level = match (arguments.verbose, arguments.quiet) {
        (0, 0) => None,
        (0, 1) => Some("warn,boringtun=off"),
        (0, _) => Some("error,boringtun=off"),
        (1, _) => Some("debug,boringtun=off"),
        (_, _) => Some("trace"),
    };
    let filter = match level {
        Some(level) => EnvFilter::new(level),
        None => from_environment()?,
    };
    // An error in writing the log must not become a panic in telling about it.
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(output::stderr_has_colours())
        .log_internal_errors(false);
    match arguments.log_format {
        Format::Text => builder.with_target(false).init(),
        Format::Json => {
            builder.json().init();
            output::into_log();
        }
    }
    Ok(())
}

/// A filter that does not speak of boringtun keeps it out: it calls it an error when a peer is idle.
/// What matters of that, the tunnel tells.
fn without_boringtun(filter: &str) -> Cow<'_, str> {
    match filter.is_empty() || filter.contains("boringtun") {
        true => filter.into(),
        false => format!("{filter},boringtun=off").into(),
    }
}

fn from_environment() -> Result<EnvFilter, Usage> {
    for name in ["VCGATE_LOG", "RUST_LOG"] {
        let value = std::env::var(name).unwrap_or_default();
        if value.is_empty() {
            continue;
        }
        return EnvFilter::try_new(without_boringtun(&value)).map_err(|_| {
            Usage(format!(
                "{name}: {value:?} is no log filter; write \"debug\" or \"info,vcgate_core::tunnel=debug\""
            ))
        });
    }
    Ok(EnvFilter::new("info,boringtun=off"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_asks_for_boringtun_hears_of_it() {
        for (filter, expected) in [
            ("info", "info,boringtun=off"),
            (
                "vcgate_core::smb=debug",
                "vcgate_core::smb=debug,boringtun=off",
            ),
            ("info,boringtun=debug", "info,boringtun=debug"),
            ("boringtun::noise=trace", "boringtun::noise=trace"),
            ("", ""),
        ] {
            assert_eq!(without_boringtun(filter), expected);
            assert!(EnvFilter::try_new(without_boringtun(filter)).is_ok());
        }
    }
}
