//! The client of the control socket, through which commands reach a running endpoint.
//!
//! All calls block, and time out if the endpoint does not answer.

use super::endpoint::{PeerChange, Refusal};
use super::listener::{is_served, socket_path};
use super::local::LocalCaller;
use super::message::{Answer, MAX_ANSWER, Request};
use super::reload::Reload;
use super::report::{Flow, LinkReport, SmbReport, Status};
use super::socket::DIRECTORY;
use super::timeline::Timeline;
use crate::config::{Config, Forward};
use crate::keys::PublicKey;
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

/// Maximum time to wait for the endpoint's answer.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// A client of one running endpoint. Each request makes its own connection.
#[derive(Debug, Clone)]
pub struct Client {
    name: String,
    path: PathBuf,
    /// The way to the endpoint in the same process, instead of the socket.
    local: Option<LocalCaller>,
    response_timeout: Duration,
}

/// The errors of a request.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No endpoint of this name is running.
    #[error(
        "no endpoint is running as {name} (no answer at {}): start it with `vcgate up`",
        path.display()
    )]
    NotRunning {
        /// The interface's name.
        name: String,
        /// Its control socket.
        path: PathBuf,
    },
    /// No name was given and no endpoint is running.
    #[error(
        "no endpoint is running on this machine (no socket in {}): start one with `vcgate up`",
        .0.display()
    )]
    NoneRunning(PathBuf),
    /// No name was given and several endpoints are running.
    #[error(
        "several endpoints are running ({}): say which one with `--interface NAME`",
        .0.join(", ")
    )]
    SeveralRunning(Vec<String>),
    /// The endpoint of this name reads a configuration other than the given one.
    #[error("{}", config_mismatch(name, running.as_deref(), given))]
    ConfigMismatch {
        /// The interface's name.
        name: String,
        /// The configuration that it reads, if it reports one.
        running: Option<PathBuf>,
        /// The configuration that was given.
        given: PathBuf,
    },
    /// This user has no permission to connect.
    #[error("{} is for root only: run the command with sudo", .0.display())]
    Denied(PathBuf),
    /// The endpoint did not answer in time.
    #[error(
        "the endpoint {name} does not answer within {} seconds: look at its log",
        RESPONSE_TIMEOUT.as_secs()
    )]
    Timeout {
        /// The interface's name.
        name: String,
    },
    /// The answer is not in the protocol.
    #[error("cannot parse the endpoint's answer ({0}): it may be of another version; restart it")]
    MalformedResponse(String),
    /// The endpoint refused the request.
    #[error("{}", message_and_remedy(.0))]
    Refused(Refusal),
    /// A system call failed.
    #[error("cannot reach the endpoint at {}: {source}", path.display())]
    Io {
        /// The control socket.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl Client {
    /// Finds the endpoint of this interface; without a name, the only one that is running.
    ///
    /// # Errors
    /// Without a name, if there is not exactly one endpoint.
    pub fn new(interface: Option<&str>) -> Result<Self, ClientError> {
        Self::within(Path::new(DIRECTORY), interface)
    }

    /// Returns a client of the endpoint that runs in another thread of this process.
    pub(crate) fn local(interface: &str, caller: LocalCaller) -> Self {
        Self {
            name: interface.to_owned(),
            path: PathBuf::from(DIRECTORY),
            local: Some(caller),
            response_timeout: RESPONSE_TIMEOUT,
        }
    }

    /// Finds an endpoint as [`Client::new`] does, among the sockets in `directory`.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn within(directory: &Path, interface: Option<&str>) -> Result<Self, ClientError> {
        let name = match interface {
            Some(name) => name.to_owned(),
            None => only_endpoint(directory)?,
        };
        match socket_path(directory, &name) {
            Some(path) => Ok(Self {
                name,
                path,
                local: None,
                response_timeout: RESPONSE_TIMEOUT,
            }),
            None => Err(ClientError::NotRunning {
                path: directory.to_owned(),
                name,
            }),
        }
    }

    /// Finds the endpoint that was started with this configuration, whatever its interface is
    /// called: the name in the file may have changed since.
    ///
    /// # Errors
    /// [`ClientError::NotRunning`] if no endpoint reads the file, [`ClientError::ConfigMismatch`] if an
    /// endpoint of the same interface name reads another one.
    pub fn of(config: &Config) -> Result<Self, ClientError> {
        let named = Self::new(Some(&config.interface.name))?;
        let mismatch = match named.must_read(&config.path) {
            Ok(()) => return Ok(named),
            Err(error @ (ClientError::NotRunning { .. } | ClientError::ConfigMismatch { .. })) => {
                error
            }
            Err(error) => return Err(error),
        };
        match Self::reading(&config.path) {
            Ok(Some(endpoint)) => Ok(endpoint),
            _ => Err(mismatch),
        }
    }

    /// Finds the endpoint that reads the configuration at `path`.
    ///
    /// # Errors
    /// If the sockets cannot be listed.
    pub fn reading(path: &Path) -> Result<Option<Self>, ClientError> {
        let names = match running_endpoints(Path::new(DIRECTORY)) {
            Err(ClientError::NoneRunning(_)) => Vec::new(),
            names => names?,
        };
        let mut endpoints = names.iter().filter_map(|name| Self::new(Some(name)).ok());
        Ok(endpoints.find(|endpoint| endpoint.must_read(path).is_ok()))
    }

    /// Checks that the endpoint runs and reads the configuration at `path`.
    ///
    /// # Errors
    /// [`ClientError::ConfigMismatch`] if it reads another file.
    pub fn must_read(&self, path: &Path) -> Result<(), ClientError> {
        let running = self.status()?.file;
        match running.as_deref().is_some_and(|file| is_same(file, path)) {
            true => Ok(()),
            false => Err(ClientError::ConfigMismatch {
                name: self.name.clone(),
                running,
                given: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
            }),
        }
    }

    /// Returns the interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Requests a summary of the endpoint.
    ///
    /// # Errors
    /// If the endpoint does not answer, as with all requests.
    pub fn status(&self) -> Result<Status, ClientError> {
        self.request(&Request::Status)
    }

    /// Requests all translated flows.
    ///
    /// # Errors
    /// If the endpoint does not answer.
    pub fn flows(&self) -> Result<Vec<Flow>, ClientError> {
        self.request(&Request::Flows)
    }

    /// Requests the counters and flows of the SMB hook.
    ///
    /// # Errors
    /// If the endpoint does not answer.
    pub fn smb(&self) -> Result<SmbReport, ClientError> {
        self.request(&Request::Smb)
    }

    /// Requests the events on flows to file servers, from this number on.
    ///
    /// # Errors
    /// If the endpoint does not answer.
    pub fn timeline(&self, from: u64) -> Result<Timeline, ClientError> {
        self.request(&Request::Timeline { from })
    }

    /// Makes the endpoint read its configuration file again.
    ///
    /// # Errors
    /// If the endpoint does not answer.
    pub fn reload(&self) -> Result<Reload, ClientError> {
        self.request(&Request::Reload)
    }

    /// Sets the level of the endpoint's log, if one is given; returns the level in force.
    ///
    /// # Errors
    /// If the endpoint does not answer, or the text is not a level.
    pub fn log_level(&self, level: Option<String>) -> Result<String, ClientError> {
        self.request(&Request::LogLevel { level })
    }

    /// Adds a peer to the running endpoint.
    ///
    /// # Errors
    /// If the endpoint does not answer or refuses the peer.
    pub fn peer_add(&self, peer: PeerChange) -> Result<(), ClientError> {
        self.request(&Request::PeerAdd { peer })
    }

    /// Changes a peer of the running endpoint; `before` is its public key until now.
    ///
    /// # Errors
    /// If the endpoint does not answer or refuses the change.
    pub fn peer_set(&self, before: PublicKey, peer: PeerChange) -> Result<(), ClientError> {
        self.request(&Request::PeerSet { before, peer })
    }

    /// Removes a peer from the running endpoint, by its name or its public key in base64.
    ///
    /// # Errors
    /// If the endpoint does not answer or has no such peer.
    pub fn peer_remove(&self, peer: &str) -> Result<(), ClientError> {
        let peer = peer.to_owned();
        self.request(&Request::PeerRemove { peer })
    }

    /// Makes a link by which a peer's file can be fetched once.
    ///
    /// # Errors
    /// If the endpoint does not answer, has no such peer, or serves no administration page.
    pub fn peer_link(&self, peer: &str, valid: Duration) -> Result<LinkReport, ClientError> {
        let (peer, valid_seconds) = (peer.to_owned(), valid.as_secs());
        self.request(&Request::PeerLink {
            peer,
            valid_seconds,
        })
    }

    /// Adds a forward to the running endpoint.
    ///
    /// # Errors
    /// If the endpoint does not answer or refuses the forward.
    pub fn forward_add(&self, forward: Forward) -> Result<(), ClientError> {
        self.request(&Request::ForwardAdd { forward })
    }

    /// Removes a forward from the running endpoint.
    ///
    /// # Errors
    /// If the endpoint does not answer or has no such forward.
    pub fn forward_remove(&self, forward: Forward) -> Result<(), ClientError> {
        self.request(&Request::ForwardRemove { forward })
    }

    /// Starts a capture, which continues until it is stopped.
    ///
    /// # Errors
    /// If the endpoint does not answer, or another capture is running.
    pub fn capture(&self, filter: Filter) -> Result<Capture, ClientError> {
        let begin = || -> io::Result<_> {
            let mut input = BufReader::new(self.send(&Request::Capture { filter })?);
            let answer = read_line(&mut input)?;
            // There may be no packets to capture for any time.
            input.get_ref().set_read_timeout(None)?;
            Ok((input, answer))
        };
        let (input, answer) = begin().map_err(|error| self.to_error(error))?;
        decode_response::<()>(&answer)?;
        Ok(Capture { input })
    }

    fn request<T: DeserializeOwned>(&self, request: &Request) -> Result<T, ClientError> {
        let answer = self
            .round_trip(request)
            .map_err(|error| self.to_error(error))?;
        decode_response(&answer)
    }

    fn round_trip(&self, request: &Request) -> io::Result<Vec<u8>> {
        if let Some(local) = &self.local {
            return local.request(request, self.response_timeout);
        }
        read_line(&mut BufReader::new(self.send(request)?))
    }

    fn send(&self, request: &Request) -> io::Result<UnixStream> {
        let mut stream = UnixStream::connect(&self.path)?;
        stream.set_read_timeout(Some(self.response_timeout))?;
        stream.set_write_timeout(Some(self.response_timeout))?;
        let mut line = Zeroizing::new(serde_json::to_vec(request)?);
        line.push(b'\n');
        stream.write_all(&line)?;
        Ok(stream)
    }

    fn to_error(&self, source: io::Error) -> ClientError {
        let (name, path) = (self.name.clone(), self.path.clone());
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NotRunning { name, path }
            }
            io::ErrorKind::PermissionDenied => ClientError::Denied(path),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::Timeout { name },
            _ => ClientError::Io { path, source },
        }
    }
}

/// A running capture. Dropping it ends it.
#[derive(Debug)]
pub struct Capture {
    input: BufReader<UnixStream>,
}

impl Capture {
    /// Waits for the next item.
    ///
    /// # Errors
    /// If the connection fails, or the endpoint stops before it has sent the end of the capture.
    pub fn receive(&mut self) -> io::Result<Item> {
        stream::decode(&mut self.input)
    }

    /// Whether all received bytes were read.
    pub fn is_read(&self) -> bool {
        self.input.buffer().is_empty()
    }

    /// Returns a handle by which another thread can stop the capture.
    ///
    /// # Errors
    /// If the socket cannot be duplicated.
    pub fn stopper(&self) -> io::Result<Stopper> {
        self.input.get_ref().try_clone().map(Stopper)
    }
}

/// Stops a capture.
#[derive(Debug)]
pub struct Stopper(UnixStream);

impl Stopper {
    /// Stops the capture. The packets captured so far still arrive, and then the end.
    pub fn stop(self) {
        // The error is that the capture has ended already.
        let _ = self.0.shutdown(Shutdown::Write);
    }
}

fn read_line(input: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    input.take(MAX_ANSWER).read_until(b'\n', &mut line)?;
    Ok(line)
}

fn decode_response<T: DeserializeOwned>(answer: &[u8]) -> Result<T, ClientError> {
    match serde_json::from_slice(answer) {
        Ok(Answer::Ok(report)) => Ok(report),
        Ok(Answer::Error(refusal)) => Err(ClientError::Refused(refusal)),
        Err(error) => Err(ClientError::MalformedResponse(error.to_string())),
    }
}

/// Returns the name of the only endpoint that is running.
fn only_endpoint(directory: &Path) -> Result<String, ClientError> {
    let running = running_endpoints(directory)?;
    match running.as_slice() {
        [] => Err(ClientError::NoneRunning(directory.to_owned())),
        [only] => Ok(only.clone()),
        _ => Err(ClientError::SeveralRunning(running)),
    }
}

/// Returns the names of all endpoints that are running, sorted.
fn running_endpoints(directory: &Path) -> Result<Vec<String>, ClientError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => ClientError::NoneRunning(directory.to_owned()),
        io::ErrorKind::PermissionDenied => ClientError::Denied(directory.to_owned()),
        _ => ClientError::Io {
            path: directory.to_owned(),
            source,
        },
    };
    let mut running = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        if let Some(name) = name.strip_suffix(".sock")
            // Without permission to connect, the socket may be in use.
            && is_served(&path).unwrap_or(true)
        {
            running.push(name.to_owned());
        }
    }
    running.sort();
    Ok(running)
}

/// Whether both paths lead to one file, possibly through links.
fn is_same(a: &Path, b: &Path) -> bool {
    let identity = |path| fs::metadata(path).map(|file| (file.dev(), file.ino()));
    matches!((identity(a), identity(b)), (Ok(a), Ok(b)) if a == b)
}

fn config_mismatch(name: &str, running: Option<&Path>, given: &Path) -> String {
    let given = given.display();
    match running.map(Path::display) {
        Some(running) => format!(
            "cannot act on the running endpoint {name} by {given}: it reads {running}; use \
             --config {running}, or choose another interface.name in {given}"
        ),
        None => format!(
            "cannot act on the running endpoint {name} by {given}: it does not report which file \
             it reads; restart it, or choose another interface.name in {given}"
        ),
    }
}

fn message_and_remedy(refusal: &Refusal) -> String {
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
    fn requests_to_a_silent_endpoint_time_out() {
        let root = TempDir::new().unwrap();
        let _silent = UnixListener::bind(root.path().join("vcg0.sock")).unwrap();
        let client = Client {
            response_timeout: Duration::from_millis(1),
            ..Client::within(root.path(), Some("vcg0")).unwrap()
        };
        let error = client.status().unwrap_err();
        assert!(
            matches!(&error, ClientError::Timeout { name } if name == "vcg0"),
            "{error}"
        );
    }

    #[test]
    fn names_with_a_path_are_rejected() {
        let error = Client::within(Path::new(DIRECTORY), Some("../x")).unwrap_err();
        assert!(matches!(error, ClientError::NotRunning { .. }), "{error}");
    }
}
