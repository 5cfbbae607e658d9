//! A command's way to the running endpoint, through its control socket. It blocks, with a limit.

use super::endpoint::{PeerChange, Refusal};
use super::listener::{is_served, socket_path};
use super::message::{Answer, MAX_ANSWER, Request};
use super::reload::Reload;
use super::report::{Flow, SmbReport, Status};
use super::socket::DIRECTORY;
use super::timeline::Timeline;
use crate::config::{Config, Forward};
use serde::de::DeserializeOwned;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;
use vcgate_capture::stream::{self, Item};
use vcgate_core::engine::Filter;
use zeroize::Zeroizing;

/// How long the endpoint may be silent.
const PATIENCE: Duration = Duration::from_secs(10);

/// A client of one running endpoint. Each request makes its own connection.
#[derive(Debug, Clone)]
pub struct Client {
    name: String,
    path: PathBuf,
    patience: Duration,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody serves this name.
    #[error(
        "no endpoint is running as {name} (nobody answers at {}): start it with `vcgate up`",
        path.display()
    )]
    NotRunning {
        /// The interface's name.
        name: String,
        /// Its control socket.
        path: PathBuf,
    },
    /// No name was given and nobody serves any.
    #[error(
        "no endpoint is running on this machine (no socket in {}): start one with `vcgate up`",
        .0.display()
    )]
    NoneRunning(PathBuf),
    /// No name was given and there is a choice.
    #[error(
        "several endpoints are running ({}): say which one with `--interface NAME`",
        .0.join(", ")
    )]
    SeveralRunning(Vec<String>),
    /// The endpoint of this name reads another configuration than the one that was given.
    #[error("{}", reads_another(name, running.as_deref(), given))]
    OtherFile {
        /// The interface's name.
        name: String,
        /// The configuration that it reads, if it says so.
        running: Option<PathBuf>,
        /// The configuration that was given.
        given: PathBuf,
    },
    /// The socket is not for this user.
    #[error("{} is for root only: run the command with sudo", .0.display())]
    Denied(PathBuf),
    /// It runs and says nothing.
    #[error(
        "the endpoint {name} does not answer within {} seconds: look at its log",
        PATIENCE.as_secs()
    )]
    Silent {
        /// The interface's name.
        name: String,
    },
    /// It speaks another language.
    #[error("the endpoint's answer makes no sense ({0}): it may be of another version, restart it")]
    Nonsense(String),
    /// It said no.
    #[error("{}", said(.0))]
    Refused(Refusal),
    /// The system refused.
    #[error("cannot talk to the endpoint at {}: {source}", path.display())]
    Io {
        /// The control socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Client {
    /// The endpoint of this interface; without a name, the only one that is running.
    pub fn new(interface: Option<&str>) -> Result<Self, ClientError> {
        Self::within(Path::new(DIRECTORY), interface)
    }

    /// The same with another directory of sockets.
    pub fn within(directory: &Path, interface: Option<&str>) -> Result<Self, ClientError> {
        let name = match interface {
            Some(name) => name.to_owned(),
            None => the_only_one(directory)?,
        };
        match socket_path(directory, &name) {
            Some(path) => Ok(Self {
                name,
                path,
                patience: PATIENCE,
            }),
            None => Err(ClientError::NotRunning {
                path: directory.to_owned(),
                name,
            }),
        }
    }

    /// The endpoint that was started with this configuration, whatever its interface is called: the
    /// name in the file may have changed since.
    ///
    /// # Errors
    /// [`ClientError::NotRunning`] if no endpoint reads the file, [`ClientError::OtherFile`] if an
    /// endpoint of the same interface name reads another one.
    pub fn of(config: &Config) -> Result<Self, ClientError> {
        let named = Self::new(Some(&config.interface.name))?;
        let not_it = match named.must_read(&config.path) {
            Ok(()) => return Ok(named),
            Err(error @ (ClientError::NotRunning { .. } | ClientError::OtherFile { .. })) => error,
            Err(error) => return Err(error),
        };
        match Self::reading(&config.path) {
            Ok(Some(endpoint)) => Ok(endpoint),
            _ => Err(not_it),
        }
    }

    /// The endpoint that reads the configuration at `path`, if one does.
    pub fn reading(path: &Path) -> Result<Option<Self>, ClientError> {
        let names = match alive(Path::new(DIRECTORY)) {
            Err(ClientError::NoneRunning(_)) => Vec::new(),
            names => names?,
        };
        let mut endpoints = names.iter().filter_map(|name| Self::new(Some(name)).ok());
        Ok(endpoints.find(|endpoint| endpoint.must_read(path).is_ok()))
    }

    /// Makes sure that it runs and reads the configuration at `path`.
    pub fn must_read(&self, path: &Path) -> Result<(), ClientError> {
        let running = self.status()?.file;
        match running.as_deref().is_some_and(|file| is_same(file, path)) {
            true => Ok(()),
            false => Err(ClientError::OtherFile {
                name: self.name.clone(),
                running,
                given: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
            }),
        }
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The endpoint at a glance.
    pub fn status(&self) -> Result<Status, ClientError> {
        self.ask(&Request::Status)
    }

    /// All translated flows.
    pub fn flows(&self) -> Result<Vec<Flow>, ClientError> {
        self.ask(&Request::Flows)
    }

    /// What the SMB hook did and sees.
    pub fn smb(&self) -> Result<SmbReport, ClientError> {
        self.ask(&Request::Smb)
    }

    /// What happened on the flows to file servers, from this number on.
    pub fn timeline(&self, from: u64) -> Result<Timeline, ClientError> {
        self.ask(&Request::Timeline { from })
    }

    /// Lets the endpoint read its configuration file again.
    pub fn reload(&self) -> Result<Reload, ClientError> {
        self.ask(&Request::Reload)
    }

    /// Sets the level of the endpoint's log, if one is given; returns the level in force.
    ///
    /// # Errors
    /// If the endpoint does not answer, or the text is not a level.
    pub fn log_level(&self, level: Option<String>) -> Result<String, ClientError> {
        self.ask(&Request::LogLevel { level })
    }

    /// Takes in a new peer, live.
    pub fn peer_add(&self, peer: PeerChange) -> Result<(), ClientError> {
        self.ask(&Request::PeerAdd { peer })
    }

    /// Lets a peer go, live, by its name or its public key in base64.
    pub fn peer_remove(&self, peer: &str) -> Result<(), ClientError> {
        let peer = peer.to_owned();
        self.ask(&Request::PeerRemove { peer })
    }

    /// Forwards a port of the LAN address, live.
    pub fn forward_add(&self, forward: Forward) -> Result<(), ClientError> {
        self.ask(&Request::ForwardAdd { forward })
    }

    /// Forwards a port no longer, live.
    pub fn forward_remove(&self, forward: Forward) -> Result<(), ClientError> {
        self.ask(&Request::ForwardRemove { forward })
    }

    /// Starts a capture, which goes on until it is stopped.
    pub fn capture(&self, filter: Filter) -> Result<Capture, ClientError> {
        let begin = || -> io::Result<_> {
            let mut input = BufReader::new(self.send(&Request::Capture { filter })?);
            let answer = read_line(&mut input)?;
            // From here on, silence is nothing unusual.
            input.get_ref().set_read_timeout(None)?;
            Ok((input, answer))
        };
        let (input, answer) = begin().map_err(|error| self.explain(error))?;
        understand::<()>(&answer)?;
        Ok(Capture { input })
    }

    fn ask<T: DeserializeOwned>(&self, request: &Request) -> Result<T, ClientError> {
        let answer = self
            .exchange(request)
            .map_err(|error| self.explain(error))?;
        understand(&answer)
    }

    fn exchange(&self, request: &Request) -> io::Result<Vec<u8>> {
        read_line(&mut BufReader::new(self.send(request)?))
    }

    fn send(&self, request: &Request) -> io::Result<UnixStream> {
        let mut stream = UnixStream::connect(&self.path)?;
        stream.set_read_timeout(Some(self.patience))?;
        stream.set_write_timeout(Some(self.patience))?;
        let mut line = Zeroizing::new(serde_json::to_vec(request)?);
        line.push(b'\n');
        stream.write_all(&line)?;
        Ok(stream)
    }

    fn explain(&self, source: io::Error) -> ClientError {
        let (name, path) = (self.name.clone(), self.path.clone());
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NotRunning { name, path }
            }
            io::ErrorKind::PermissionDenied => ClientError::Denied(path),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::Silent { name },
            _ => ClientError::Io { path, source },
        }
    }
}

/// A capture that goes on. Dropping it ends it.
#[derive(Debug)]
pub struct Capture {
    input: BufReader<UnixStream>,
}

impl Capture {
    /// What comes next; waits for it. An endpoint that stops leaves no end behind, which is an
    /// error.
    pub fn receive(&mut self) -> io::Result<Item> {
        stream::decode(&mut self.input)
    }

    /// Whether all that has come was read.
    pub fn is_read(&self) -> bool {
        self.input.buffer().is_empty()
    }

    /// What stops it, from another thread.
    pub fn stopper(&self) -> io::Result<Stopper> {
        self.input.get_ref().try_clone().map(Stopper)
    }
}

/// Stops a capture.
#[derive(Debug)]
pub struct Stopper(UnixStream);

impl Stopper {
    /// What was captured until now still comes, and then the end.
    pub fn stop(self) {
        // It may have ended by itself.
        let _ = self.0.shutdown(Shutdown::Write);
    }
}

fn read_line(input: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    input.take(MAX_ANSWER).read_until(b'\n', &mut line)?;
    Ok(line)
}

fn understand<T: DeserializeOwned>(answer: &[u8]) -> Result<T, ClientError> {
    match serde_json::from_slice(answer) {
        Ok(Answer::Ok(report)) => Ok(report),
        Ok(Answer::Error(refusal)) => Err(ClientError::Refused(refusal)),
        Err(error) => Err(ClientError::Nonsense(error.to_string())),
    }
}

/// The name of the one endpoint that is alive.
fn the_only_one(directory: &Path) -> Result<String, ClientError> {
    let alive = alive(directory)?;
    match alive.as_slice() {
        [] => Err(ClientError::NoneRunning(directory.to_owned())),
        [only] => Ok(only.clone()),
        _ => Err(ClientError::SeveralRunning(alive)),
    }
}

/// The names of all that are.
fn alive(directory: &Path) -> Result<Vec<String>, ClientError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => ClientError::NoneRunning(directory.to_owned()),
        io::ErrorKind::PermissionDenied => ClientError::Denied(directory.to_owned()),
        _ => ClientError::Io {
            path: directory.to_owned(),
            source,
        },
    };
    let mut alive = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        if let Some(name) = name.strip_suffix(".sock")
            && is_served(&path).unwrap_or(true)
        // perhaps not for us, but somebody's
        {
            alive.push(name.to_owned());
        }
    }
    alive.sort();
    Ok(alive)
}

/// Whether both paths lead to one file, be it by a link.
fn is_same(a: &Path, b: &Path) -> bool {
    let identity = |path| fs::metadata(path).map(|file| (file.dev(), file.ino()));
    matches!((identity(a), identity(b)), (Ok(a), Ok(b)) if a == b)
}

fn reads_another(name: &str, running: Option<&Path>, given: &Path) -> String {
    let given = given.display();
    match running.map(Path::display) {
        Some(running) => format!(
            "cannot act on the running endpoint {name} by {given}: it reads {running}; use \
             --config {running}, or choose another interface.name in {given}"
        ),
        None => format!(
            "cannot act on the running endpoint {name} by {given}: it does not say which file it \
             reads; restart it, or choose another interface.name in {given}"
        ),
    }
}

fn said(refusal: &Refusal) -> String {
    match &refusal.remedy {
        Some(remedy) => format!("{}: {remedy}", refusal.message),
        None => refusal.message.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use tempfile::TempDir;

    #[test]
    fn an_endpoint_that_says_nothing_is_given_up() {
        let root = TempDir::new().unwrap();
        let _silent = UnixListener::bind(root.path().join("vcg0.sock")).unwrap();
        let client = Client {
            patience: Duration::from_millis(1),
            ..Client::within(root.path(), Some("vcg0")).unwrap()
        };
        let error = client.status().unwrap_err();
        assert!(
            matches!(&error, ClientError::Silent { name } if name == "vcg0"),
            "{error}"
        );
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_nobodys() {
        let error = Client::within(Path::new(DIRECTORY), Some("../x")).unwrap_err();
        assert!(matches!(error, ClientError::NotRunning { .. }), "{error}");
    }
}
