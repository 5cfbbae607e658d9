//! `vcgate capture`: packets of the running endpoint, on both sides of the translation, into a
//! file that Wireshark reads.

use super::Usage;
use super::human::counted;
use anyhow::Context;
use clap::{Args, ValueEnum};
use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use vcgate::control::client::{Capture, Client, Stopper};
use vcgate_capture::Counts;
use vcgate_capture::pcapng::Writer;
use vcgate_capture::stream::Item;
use vcgate_core::engine::{Filter, Side};

/// What to capture, and where to.
#[derive(Args)]
pub struct Arguments {
    /// Only this peer's packets
    #[arg(long, value_name = "NAME")]
    peer: Option<String>,
    /// Only packets as the clients send and get them, or as they are on the LAN
    #[arg(long, value_name = "SIDE", default_value = "both")]
    side: Sides,
    /// The pcapng file to write, in place of what is there; - is stdout
    #[arg(short, long, value_name = "FILE")]
    write: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum Sides {
    Tunnel,
    Lan,
    Both,
}

/// Captures until Ctrl-C, until nobody reads, or until the endpoint stops.
pub fn run(endpoint: &Client, arguments: Arguments) -> anyhow::Result<()> {
    let path = arguments.write;
    let to_stdout = path == Path::new("-");
    if to_stdout && io::stdout().is_terminal() {
        let remedy = "give it a file, or a reader: vcgate capture -w - | tshark -r -";
        return Err(Usage(format!("a capture is nothing for a terminal: {remedy}")).into());
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
        false => Box::new(File::create(&path).with_context(place)?),
    };
    stop_on_signal(capture.stopper()?)?;
    say("capturing; Ctrl-C ends it");
    let out = BufWriter::with_capacity(1 << 20, out);
    let (written, dropped) = copy(&mut capture, out, place)?;
    say(&summary(written, dropped));
    Ok(())
}

/// Writes what comes; what was written, and what the endpoint had to drop.
fn copy(
    capture: &mut Capture,
    out: impl Write,
    place: impl Fn() -> String + Copy,
) -> anyhow::Result<(Counts, Counts)> {
    let application = concat!("vcgate ", env!("CARGO_PKG_VERSION"));
    let mut file = Writer::new(out, application).with_context(place)?;
    loop {
        if capture.is_read() {
            // Nothing is under way: whoever reads along sees all that there is.
            file.flush().with_context(place)?;
        }
        match capture.receive() {
            Ok(Item::Packet(packet)) => file.packet(&packet).with_context(place)?,
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
                        "the endpoint has stopped: what was captured until then is written"
                    ),
                    false => anyhow::Error::new(error).context("cannot read from the endpoint"),
                });
            }
        }
    }
}

/// Ctrl-C and SIGTERM end the capture, not the command: it writes what is left. The second one
/// ends the command.
fn stop_on_signal(stopper: Stopper) -> io::Result<()> {
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
        signalled().await;
        stopper.stop();
        // What is left does not come, or finds no reader.
        signalled().await;
        std::process::exit(1);
    };
    let thread = std::thread::Builder::new().name("signals".into());
    thread.spawn(move || runtime.block_on(wait))?;
    Ok(())
}

/// On stderr: the packets may go to stdout. That nobody listens is no error.
fn say(text: &str) {
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
    fn how_a_capture_ends_in_words() {
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
