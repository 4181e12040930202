//! Where is listened: the socket's file with its mode, and the address.

use std::fs::Permissions;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, UnixListener, UnixStream};

use super::HttpError;

/// Owner and group may connect; what each may do is another question.
const SOCKET_MODE: u32 = 0o660;

/// The socket's file, removed when this is dropped unless another one has taken its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = |found: &std::fs::Metadata| (found.dev(), found.ino()) == self.inode;
        if std::fs::symlink_metadata(&self.path).is_ok_and(|found| is_ours(&found)) {
            // Whoever starts next removes it if we cannot.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Listens to a socket at `path`; one that nobody listens to is replaced.
pub async fn bind_socket(path: &Path) -> Result<(UnixListener, SocketFile), HttpError> {
    let failed = |source| HttpError::Socket { path: path.to_owned(), source };
    remove_stale(path).await?;
    let listener = UnixListener::bind(path).map_err(failed)?;
    let made = std::fs::symlink_metadata(path).map_err(failed)?;
    let file = SocketFile { path: path.to_owned(), inode: (made.dev(), made.ino()) };
    std::fs::set_permissions(path, Permissions::from_mode(SOCKET_MODE)).map_err(failed)?;
    Ok((listener, file))
}

async fn remove_stale(path: &Path) -> Result<(), HttpError> {
    let failed = |source| HttpError::Socket { path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(HttpError::NoSocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(failed)
        }
        // One that listens and is busy, or that we may not ask, is somebody's.
        _ => Err(HttpError::SocketInUse { path: path.to_owned() }),
    }
}

/// Listens to an address.
pub async fn bind_tcp(address: SocketAddr) -> Result<TcpListener, HttpError> {
    TcpListener::bind(address).await.map_err(|source| HttpError::Address { address, source })
}
