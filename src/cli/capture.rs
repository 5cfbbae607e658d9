//! `vcgate capture`: captures packets of the running endpoint before and after translation, into a
//! pcapng file.

use super::Usage;
use super::human::counted;
use anyhow::Context;
use clap::{Args, ValueEnum};
use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, ErrorKind, IsTerminal, Write};
use std::num::NonZeroU64;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use vcgate::config;
use vcgate::control::client::{Capture, Client, Stopper};
use vcgate_capture::Counts;
use vcgate_capture::pcapng::{MAX_PACKET, Writer};
use vcgate_capture::stream::Item;
use vcgate_core::engine::{Filter, Side};

/// The arguments of `vcgate capture`.
#[derive(Args)]
pub(super) struct Arguments {
    /// Only this peer's packets
    #[arg(long, value_name = "NAME")]
    peer: Option<String>,
    /// Only packets in the tunnel, or only packets on the LAN
    #[arg(long, value_name = "SIDE", default_value = "both")]
    side: Sides,
    /// The pcapng file to write or overwrite; - is stdout. Only its owner can read it; another user's
    /// file is refused
    #[arg(short, long, value_name = "FILE")]
    write: PathBuf,
    /// Store only the first bytes of each packet
    #[arg(long, value_name = "BYTES", default_value_t = MAX_PACKET, hide_default_value = true)]
    snaplen: u32,
    /// Stop after this number of packets
    #[arg(long, value_name = "N")]
    packets: Option<NonZeroU64>,
    /// Stop after this time, such as 30s, 5m or 1h
    #[arg(long, value_name = "TIME", value_parser = config::span)]
    duration: Option<Duration>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Sides {
    Tunnel,
    Lan,
    Both,
}

/// Captures until Ctrl-C, until the output is closed, or until the endpoint stops.
pub(super) fn run(endpoint: &Client, arguments: Arguments) -> anyhow::Result<()> {
    let path = arguments.write;
    let to_stdout = path == Path::new("-");
    if to_stdout && io::stdout().is_terminal() {
        let remedy = "name a file, or a reader: vcgate capture -w - | tshark -r -";
        return Err(Usage(format!("cannot write a capture to a terminal; {remedy}")).into());
    }
    let filter = Filter {
        peer: arguments.peer,
        side: match arguments.side {
            Sides::Tunnel => Some(Side::Tunnel),
            Sides::Lan => Some(Side::Lan),
            Sides::Both => None,
        },
    };
    let mut capture = endpoint.capture(filter)?;
    let place = || match to_stdout {
        true => "cannot write to stdout".to_owned(),
        false => format!("cannot write {}", path.display()),
    };
    let out: Box<dyn Write> = match to_stdout {
        true => Box::new(io::stdout()),
        false => Box::new(create(&path).with_context(place)?),
    };
    stop_at(capture.stopper()?, arguments.duration)?;
    print_status("capturing; Ctrl-C ends it");
    let out = BufWriter::with_capacity(1 << 20, out);
    let application = concat!("vcgate ", env!("CARGO_PKG_VERSION"));
    let file = Writer::with_snaplen(out, application, arguments.snaplen).with_context(place)?;
    let (written, dropped) = copy(&mut capture, file, arguments.packets, place)?;
    print_status(&summary(written, dropped));
    Ok(())
}

/// Opens the file for its owner only, since it contains the packets of all clients. Another user's
/// file is refused, since that user could read it. Pipes and devices are used as they are.
fn create(path: &Path) -> anyhow::Result<File> {
    let mut options = File::options();
    let options = options.write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_file() {
        let user = fs::metadata("/proc/self")?.uid();
        anyhow::ensure!(
            metadata.uid() == user,
            "it belongs to another user, who could read the capture; remove it, or name another file"
        );
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.set_len(0)?;
    }
    Ok(file)
}

/// Writes packets until the capture ends, or until there are `limit`. Returns the counts of packets
/// written and of packets that the endpoint dropped.
fn copy(
    capture: &mut Capture,
    mut file: Writer<impl Write>,
    limit: Option<NonZeroU64>,
    place: impl Fn() -> String + Copy,
) -> anyhow::Result<(Counts, Counts)> {
    let limit = limit.map_or(u64::MAX, NonZeroU64::get);
    let mut stopper = Some(capture.stopper()?);
    loop {
        if capture.is_read() {
            // Flush when no packet is waiting, for programs that read along.
            file.flush().with_context(place)?;
        }
        match capture.receive() {
            // More packets may arrive after the last one that is wanted.
            Ok(Item::Packet(_)) if file.written().sum() >= limit => {}
            Ok(Item::Packet(packet)) => {
                file.packet(&packet).with_context(place)?;
                if file.written().sum() >= limit
                    && let Some(stopper) = stopper.take()
                {
                    stopper.stop();
                }
            }
            Ok(Item::End(dropped)) => {
                file.finish(dropped).with_context(place)?;
                return Ok((file.written(), dropped));
            }
            Err(error) => {
                file.flush().with_context(place)?;
                let gone = matches!(
                    error.kind(),
                    ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset
                );
                return Err(match gone {
                    true => anyhow::anyhow!(
                        "the endpoint has stopped; the packets captured until then are written"
                    ),
                    false => anyhow::Error::new(error).context("cannot read from the endpoint"),
                });
            }
        }
    }
}

/// Stops the capture at Ctrl-C, SIGTERM or the end of its time; the command then writes the remaining
/// packets. A second signal ends the command.
fn stop_at(stopper: Stopper, duration: Option<Duration>) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _entered = runtime.enter();
        (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
        )
    };
    let wait = async move {
        let mut signalled = async || {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        let expired = async {
            match duration {
                Some(duration) => tokio::time::sleep(duration).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = signalled() => {}
            () = expired => {}
        }
        stopper.stop();
        // The remaining packets do not arrive, or cannot be written.
        signalled().await;
        std::process::exit(1);
    };
    let thread = std::thread::Builder::new().name("signals".into());
    thread.spawn(move || runtime.block_on(wait))?;
    Ok(())
}

/// Writes to stderr, since the packets may go to stdout. Errors are ignored.
fn print_status(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

fn summary(written: Counts, dropped: Counts) -> String {
    let Counts { tunnel, lan } = written;
    let packets = counted(written.sum(), "packet");
    let lost = match dropped.sum() {
        0 => "none dropped".to_owned(),
        lost => format!(
            "{} dropped from the capture, which was slower than the traffic",
            counted(lost, "packet")
        ),
    };
    format!("{packets} captured ({tunnel} in the tunnel, {lan} on the LAN), {lost}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_counts_written_and_dropped_packets() {
        let counts = |tunnel, lan| Counts { tunnel, lan };
        assert_eq!(
            summary(counts(1, 0), counts(0, 0)),
            "1 packet captured (1 in the tunnel, 0 on the LAN), none dropped"
        );
        assert_eq!(
            summary(counts(7, 5), counts(1, 2)),
            "12 packets captured (7 in the tunnel, 5 on the LAN), 3 packets dropped from the \
             capture, which was slower than the traffic"
        );
    }
}
