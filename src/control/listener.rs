//! A Unix socket with the endpoint's name. It is bound only if no living process serves the name,
//! is accessible to root only, and is removed on drop. It knows no protocol.
//!
//! Clients that stall cannot block others: at the maximum number of connections, the oldest
//! connection that waits for its client is closed.

use socket2::{Domain, SockAddr, Socket, Type};
use std::cell::Cell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::fs::{self, DirBuilder, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{AbortHandle, JoinSet, LocalSet};
use tokio::time::timeout;

/// Maximum time that a client may take to send one request or to read one answer.
pub(super) const CLIENT_TIMEOUT: Duration = Duration::from_secs(30);

/// Maximum number of attempts to bind while another process removes files.
const MAX_BIND_ATTEMPTS: usize = 5;

/// Maximum number of connections served at once.
const MAX_CONNECTIONS: usize = 64;

/// A bound socket. Dropping it removes the file, unless another process has replaced it.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
    identity: (u64, u64),
}

/// The errors of binding a socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// A living process serves the name.
    #[error(
        "the name {name} is taken: a running process serves {}; stop it, or choose another \
         `name` under [interface]",
        path.display()
    )]
    NameTaken {
        /// The interface's name.
        name: String,
        /// The socket.
        path: PathBuf,
    },
    /// The name is not a file name.
    #[error("{0:?} cannot be an interface's name: choose another `name` under [interface]")]
    InvalidName(String),
    /// A file that is not a socket has the name.
    #[error("{} is in the way and is not a socket: remove it", .0.display())]
    NotASocket(PathBuf),
    /// This user may not write to the socket's directory.
    #[error("no permission to serve {}: run as root", .0.display())]
    Denied(PathBuf),
    /// A system call failed.
    #[error("cannot serve {}: {source}", path.display())]
    Io {
        /// The socket, or its directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl Listener {
    /// Binds `directory/interface.sock` with mode 0600, and makes the directory with mode 0700 if it
    /// is missing. The socket of a dead process is replaced.
    ///
    /// # Errors
    /// See [`BindError`].
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn bind(directory: &Path, interface: &str) -> Result<Self, BindError> {
        let mut attempts = 1..MAX_BIND_ATTEMPTS;
        loop {
            match Self::try_bind(directory, interface) {
                // A process that ends at this moment removed its socket between two steps.
                Err(BindError::Io { source, .. })
                    if source.kind() == io::ErrorKind::NotFound && attempts.next().is_some() => {}
                result => return result,
            }
        }
    }

    fn try_bind(directory: &Path, interface: &str) -> Result<Self, BindError> {
        let path = socket_path(directory, interface)
            .ok_or_else(|| BindError::InvalidName(interface.to_owned()))?;
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::PermissionDenied => BindError::Denied(path.clone()),
            _ => BindError::Io {
                path: path.clone(),
                source,
            },
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(failed)?;
        if let Ok(present) = fs::symlink_metadata(&path) {
            if !present.file_type().is_socket() {
                return Err(BindError::NotASocket(path));
            }
            if is_served(&path).map_err(failed)? {
                return Err(BindError::NameTaken {
                    name: interface.to_owned(),
                    path,
                });
            }
            tracing::debug!(path = %path.display(), "replacing the socket of a dead process");
            fs::remove_file(&path).map_err(failed)?;
        }
        let socket = UnixListener::bind(&path).map_err(failed)?;
        fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(failed)?;
        let identity = identity(&fs::symlink_metadata(&path).map_err(failed)?);
        Ok(Self {
            socket,
            path,
            identity,
        })
    }

    /// Returns the socket's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Serves each connection with `handler`, all on this thread, until the future is dropped.
    pub(super) async fn serve<C, F>(&self, handler: C) -> Infallible
    where
        C: Fn(Connection) -> F,
        F: Future<Output = io::Result<()>> + 'static,
    {
        let connections = async {
            let mut connections = JoinSet::new();
            let mut slots = VecDeque::new();
            loop {
                match self.socket.accept().await {
                    Ok((stream, _)) => {
                        while connections.len() >= MAX_CONNECTIONS {
                            evict_idle(&mut slots);
                            connections.join_next().await;
                        }
                        let waiting = Waiting::default();
                        let conversation = handler(Connection {
                            stream,
                            waiting: waiting.clone(),
                        });
                        let task = connections.spawn_local(async move {
                            if let Err(error) = conversation.await {
                                tracing::debug!(%error, "a control connection failed");
                            }
                        });
                        slots.push_back((task, waiting));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a control connection");
                        tokio::time::sleep(Duration::from_secs(1)).await; // out of descriptors
                    }
                }
                while connections.try_join_next().is_some() {}
                slots.retain(|(task, _)| !task.is_finished());
            }
        };
        LocalSet::new().run_until(connections).await
    }
}

/// A connection that was accepted.
pub(super) struct Connection {
    pub(super) stream: UnixStream,
    pub(super) waiting: Waiting,
}

/// Whether a connection waits for its client to send a request or to read an answer.
#[derive(Clone, Default)]
pub(super) struct Waiting(Rc<Cell<bool>>);

impl Waiting {
    /// Waits for the client. Meanwhile, the listener may close the connection in favour of another.
    pub(super) async fn during<T>(&self, wait: impl Future<Output = T>) -> T {
        self.0.set(true);
        let result = wait.await;
        self.0.set(false);
        result
    }
}

/// Closes the oldest connection that waits for its client, if there is one.
fn evict_idle(slots: &mut VecDeque<(AbortHandle, Waiting)>) {
    let idle = |(task, waiting): &(AbortHandle, Waiting)| !task.is_finished() && waiting.0.get();
    if let Some(at) = slots.iter().position(idle)
        && let Some((task, _)) = slots.remove(at)
    {
        task.abort();
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|m| identity(&m) == self.identity);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the socket");
        }
    }
}

/// Returns `directory/interface.sock`, unless the name contains a path.
pub(super) fn socket_path(directory: &Path, interface: &str) -> Option<PathBuf> {
    let plain = Path::new(interface).file_name() == Some(interface.as_ref());
    plain.then(|| directory.join(format!("{interface}.sock")))
}

/// Whether a living process accepts connections at this path. Does not block.
pub(super) fn is_served(path: &Path) -> io::Result<bool> {
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Ok(()) => Ok(true),
        Err(error) => match error.kind() {
            io::ErrorKind::WouldBlock => Ok(true), // its queue of connections is full
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Ok(false),
            _ => Err(error),
        },
    }
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// Sends an answer, or gives up on a client that does not read it.
pub(super) async fn send(
    writer: &mut (impl AsyncWriteExt + Unpin),
    line: Vec<u8>,
) -> io::Result<()> {
    send_within(CLIENT_TIMEOUT, writer, &line).await
}

/// Sends bytes for as long as the client takes some of them within every `limit`.
pub(super) async fn send_within(
    limit: Duration,
    writer: &mut (impl AsyncWriteExt + Unpin),
    mut bytes: &[u8],
) -> io::Result<()> {
    while !bytes.is_empty() {
        match timeout(limit, writer.write(bytes)).await?? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            count => bytes = &bytes[count..],
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::rc::Rc;
    use tempfile::TempDir;
    use tokio::io::AsyncReadExt;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn the_socket_is_for_its_owner_and_goes_with_the_listener() {
        let root = TempDir::new().unwrap();
        let directory = root.path().join("a/b");
        let listener = Listener::bind(&directory, "vcg0").unwrap();
        let path = directory.join("vcg0.sock");
        assert_eq!(listener.path(), path);
        assert_eq!((mode(&directory), mode(&path)), (0o700, 0o600));
        drop(listener);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_dead_socket_is_replaced_a_live_one_is_not() {
        let root = TempDir::new().unwrap();
        let path = root.path().join("vcg0.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let listener = Listener::bind(root.path(), "vcg0").unwrap();
        let taken = Listener::bind(root.path(), "vcg0").unwrap_err();
        assert!(matches!(taken, BindError::NameTaken { .. }));
        assert!(taken.to_string().starts_with("the name vcg0 is taken: "));
        assert!(is_served(listener.path()).unwrap());
    }

    #[tokio::test]
    async fn a_full_queue_is_alive() {
        let root = TempDir::new().unwrap();
        let path = root.path().join("busy.sock");
        let busy = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        busy.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        busy.listen(0).unwrap();
        let waiting = std::os::unix::net::UnixStream::connect(&path).unwrap();
        assert!(is_served(&path).unwrap());
        drop(waiting);
    }

    #[tokio::test]
    async fn other_files_and_newer_sockets_are_left_alone() {
        let root = TempDir::new().unwrap();
        let path = root.path().join("vcg0.sock");
        fs::write(&path, "another's").unwrap();
        let error = Listener::bind(root.path(), "vcg0").unwrap_err();
        assert!(matches!(error, BindError::NotASocket(_)));
        assert_eq!(fs::read(&path).unwrap(), b"another's");
        fs::remove_file(&path).unwrap();

        let old = Listener::bind(root.path(), "vcg0").unwrap();
        fs::rename(&path, root.path().join("kept")).unwrap(); // so the inode is not used again
        let new = Listener::bind(root.path(), "vcg0").unwrap();
        drop(old);
        assert!(new.path().exists());
    }

    #[tokio::test]
    async fn a_name_cannot_lead_elsewhere() {
        let root = TempDir::new().unwrap();
        for name in ["", ".", "..", "a/b", "../a", "/a", "a/"] {
            let error = Listener::bind(root.path(), name).unwrap_err();
            assert!(matches!(error, BindError::InvalidName(_)), "{name}");
        }
    }

    #[tokio::test]
    async fn no_more_connections_at_once_than_the_limit() {
        let root = TempDir::new().unwrap();
        let listener = Listener::bind(root.path(), "vcg0").unwrap();
        let counter = || Rc::new(Cell::new(0));
        let (live, most, served) = (counter(), counter(), counter());
        let server = listener.serve(|connection| {
            let (live, most, served) = (live.clone(), most.clone(), served.clone());
            let mut stream = connection.stream;
            async move {
                live.set(live.get() + 1);
                most.set(most.get().max(live.get()));
                stream.read_u8().await.unwrap_err(); // until the client goes
                live.set(live.get() - 1);
                served.set(served.get() + 1);
                Ok(())
            }
        });
        let clients = async {
            let clients: Vec<_> = (0..MAX_CONNECTIONS + 6)
                .map(|_| std::os::unix::net::UnixStream::connect(listener.path()).unwrap())
                .collect();
            while live.get() < MAX_CONNECTIONS {
                tokio::task::yield_now().await;
            }
            drop(clients);
            while served.get() < MAX_CONNECTIONS + 6 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            never = server => match never {},
            () = clients => {}
        }
        assert_eq!(most.get(), MAX_CONNECTIONS);
    }

    #[tokio::test]
    async fn clients_that_stall_are_dropped_for_others() {
        let root = TempDir::new().unwrap();
        let listener = Listener::bind(root.path(), "vcg0").unwrap();
        let (accepted, answered) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let server = listener.serve(|connection| {
            let (accepted, answered) = (accepted.clone(), answered.clone());
            accepted.set(accepted.get() + 1);
            async move {
                let Connection {
                    mut stream,
                    waiting,
                } = connection;
                waiting.during(stream.read_u16()).await?;
                answered.set(answered.get() + 1);
                Ok(())
            }
        });
        let clients = async {
            let connect = || std::os::unix::net::UnixStream::connect(listener.path()).unwrap();
            let stalled: Vec<_> = (0..MAX_CONNECTIONS).map(|_| connect()).collect();
            for mut half in &stalled {
                std::io::Write::write_all(&mut half, b"{").unwrap();
            }
            while accepted.get() < MAX_CONNECTIONS {
                tokio::task::yield_now().await;
            }
            std::io::Write::write_all(&mut connect(), b"{}").unwrap();
            while answered.get() == 0 {
                tokio::task::yield_now().await;
            }
        };
        let both = async {
            tokio::select! {
                never = server => match never {},
                () = clients => {}
            }
        };
        let done = timeout(Duration::from_secs(20), both).await;
        done.expect("the last client waits for those that stall");
    }

    #[tokio::test]
    async fn a_client_that_stops_reading_is_given_up_and_a_slow_one_is_not() {
        let (mut ours, mut theirs) = tokio::io::duplex(16);
        let none = send_within(Duration::from_millis(1), &mut ours, &[7; 64]).await;
        assert_eq!(none.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let read = async {
            let mut bytes = [0; 16 + 64];
            theirs.read_exact(&mut bytes).await.unwrap();
        };
        let limit = Duration::from_secs(60);
        let (sent, ()) = tokio::join!(send_within(limit, &mut ours, &[7; 64]), read);
        sent.unwrap();
    }
}
