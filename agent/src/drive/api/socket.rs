//! The agent's unix socket: only its own user and root can open it, and two agents never share one.
//!
//! A lock file beside the socket says whether its agent lives, so that the socket file of a dead one can be replaced and
//! that of a live one never is. The file mode is set between `bind` and `listen`: while the socket has another mode,
//! nobody can connect.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use landfall_proto::refusal::quoted;
use landfall_proto::{Class, Refusal};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with};
use tokio::net::UnixListener;

use super::limits::BACKLOG;

/// The agent's socket, listening. Dropping it removes the file.
#[derive(Debug)]
pub struct LocalSocket {
    pub(super) listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the socket file, so that only our own is removed.
    identity: (u64, u64),
    /// Held for as long as the socket lives; the kernel drops it with the process.
    _lock: File,
}

impl LocalSocket {
    /// Takes `path`. Its folder is made (0700) where it is missing. Refused with `socket_in_use` where another agent lives
    /// there, and where `path` is something else than a socket. Must be called within a tokio runtime.
    pub fn bind(path: &Path) -> Result<Self, Refusal> {
        let address = SocketAddrUnix::new(path).map_err(|_| {
            let shown = path.display().to_string();
            Refusal::invalid("socket", &shown, "use a path of at most 107 bytes: the kernel takes no longer one")
        })?;
        if let Some(folder) = path.parent() {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
            made.map_err(|error| failed("make the folder of", path, &error))?;
        }
        let lock = lock(path)?;
        clear(path, &address)?;
        let socket = socket().map_err(|error| failed("make", path, &error.into()))?;
        bind(&socket, &address).map_err(|error| failed("bind", path, &error.into()))?;
        fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(|error| failed("protect", path, &error))?;
        listen(&socket, BACKLOG).map_err(|error| failed("listen on", path, &error.into()))?;
        let file = fs::symlink_metadata(path).map_err(|error| failed("look at", path, &error))?;
        let listener = UnixListener::from_std(socket.into()).map_err(|error| failed("serve", path, &error))?;
        Ok(Self { listener, path: path.to_owned(), identity: (file.dev(), file.ino()), _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for LocalSocket {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|file| (file.dev(), file.ino()) == self.identity);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(socket = %self.path.display(), err = %error, "socket file not removed");
        }
    }
}

fn socket() -> Result<rustix::fd::OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

/// Takes the lock beside `path`; its holder is the socket's agent.
fn lock(path: &Path) -> Result<File, Refusal> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".lock");
    let beside = PathBuf::from(beside);
    let opened = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&beside);
    let file = opened.map_err(|error| failed("open the lock of", path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(in_use(path)),
        Err(TryLockError::Error(error)) => Err(failed("lock", path, &error)),
    }
}

/// Removes the socket file of a dead agent. The lock is held, so no agent of this kind lives there; a connection that is
/// accepted means that another program does.
fn clear(path: &Path, address: &SocketAddrUnix) -> Result<(), Refusal> {
    let file = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at", path, &error)),
        Ok(file) => file,
    };
    if !file.file_type().is_socket() {
        let message = format!("{} exists and is not a socket", quoted(&path.display().to_string()));
        return Err(Refusal::new(Class::Refused, "not_a_socket", message)
            .field("socket")
            .remedy("move it away, or name another path"));
    }
    let probe = socket().map_err(|error| failed("probe", path, &error.into()))?;
    match connect(&probe, address) {
        Err(Errno::CONNREFUSED | Errno::NOENT) => {}
        // Accepted, or its queue is full (EAGAIN): somebody listens.
        Ok(()) | Err(Errno::AGAIN) => return Err(in_use(path)),
        Err(error) => return Err(failed("probe", path, &error.into())),
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed("replace", path, &error)),
        _ => Ok(()),
    }
}

fn in_use(path: &Path) -> Refusal {
    let message = format!("the socket {} is in use: an agent is running there", quoted(&path.display().to_string()));
    Refusal::new(Class::Refused, "socket_in_use", message)
        .field("socket")
        .remedy("stop that agent, or give this one another socket in its file")
}

fn failed(what: &str, path: &Path, error: &io::Error) -> Refusal {
    let message = format!("cannot {what} the socket {}: {error}", quoted(&path.display().to_string()));
    Refusal::new(Class::Failed, "socket_failed", message).field("socket")
}
