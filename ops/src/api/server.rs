//! The API's socket: who may reach it, and what becomes of one that a dead node left behind.

use axum::Router;
use axum::extract::Request;
use axum::http::{Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::IntoResponse;
use std::future::Future;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tokio::net::{TcpListener, UnixListener, UnixStream};

/// Owner and group may speak to the node.
const SOCKET_MODE: u32 = 0o660;

/// Why the API cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody answers there.
    #[error("another node answers at {0}; stop it, or give this one a runDirectory of its own")]
    Taken(PathBuf),
    /// Something that is no socket is in the way.
    #[error("{0} is there and is no socket; remove it, or choose another runDirectory")]
    InTheWay(PathBuf),
    /// The kernel refuses.
    #[error("cannot listen at {path}: {source}; see that runDirectory can be written")]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel refuses the address for metrics.
    #[error(
        "metrics.listen: cannot serve metrics at {address}: {source}; choose an address of this node and a free port"
    )]
    ListenMetrics {
        /// Where.
        address: std::net::SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// A socket that is bound and not served yet. Removed from the file system when dropped.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: SocketPath,
}

/// A socket's place in the file system, given up when dropped.
#[derive(Debug)]
struct SocketPath {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketPath {
    fn drop(&mut self) {
        // Only what is still ours: another node may have replaced it.
        if std::fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Server {
    /// Listens at `path`. A socket that nobody answers at is replaced.
    ///
    /// # Errors
    /// When somebody answers there, something else is in the way, or the kernel refuses.
    pub async fn bind(path: &Path) -> Result<Server, Error> {
        let listen = |source| Error::Listen { path: path.to_owned(), source };
        match std::fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(Error::InTheWay(path.into()));
            }
            Ok(_) if UnixStream::connect(path).await.is_ok() => {
                return Err(Error::Taken(path.into()));
            }
            Ok(_) | Err(_) => {}
        }
        // Bound beside its place and moved there once its mode is right, so that nobody meets it
        // with the wrong mode or finds no socket in between.
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        let _ = std::fs::remove_file(&beside);
        let listener = UnixListener::bind(&beside).map_err(listen)?;
        let mode = std::fs::Permissions::from_mode(SOCKET_MODE);
        std::fs::set_permissions(&beside, mode).map_err(listen)?;
        let inode = std::fs::symlink_metadata(&beside).map_err(listen)?.ino();
        std::fs::rename(&beside, path).map_err(listen)?;
        Ok(Server { listener, path: SocketPath { path: path.to_owned(), inode } })
    }

    /// Serves `router` until `stop` is ready; open requests are finished. The socket's file is
    /// gone afterwards.
    ///
    /// # Errors
    /// When the kernel takes the socket away.
    pub async fn serve(
        self,
        router: Router,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let Server { listener, path } = self;
        let served = axum::serve(listener, router).with_graceful_shutdown(stop).await;
        drop(path);
        served
    }
}

/// A TCP address that is bound and not served yet: `GET /metrics` and nothing else.
#[derive(Debug)]
pub struct MetricsServer(TcpListener);

impl MetricsServer {
    /// Listens at `address`.
    ///
    /// # Errors
    /// When the address cannot be listened at.
    pub async fn bind(address: std::net::SocketAddr) -> Result<MetricsServer, Error> {
        let bound = TcpListener::bind(address).await;
        bound.map(MetricsServer).map_err(|source| Error::ListenMetrics { address, source })
    }

    /// Serves `GET /metrics` of `router` until `stop` is ready.
    ///
    /// # Errors
    /// When the kernel takes the socket away.
    pub async fn serve(
        self,
        router: Router,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        axum::serve(self.0, metrics_only(router)).with_graceful_shutdown(stop).await
    }
}

/// `router` with nothing but `GET /metrics` left of it: what may be shown to a network.
pub fn metrics_only(router: Router) -> Router {
    router.layer(middleware::from_fn(async |request: Request, next: Next| {
        if request.uri().path() == "/metrics" && request.method() == Method::GET {
            next.run(request).await
        } else {
            StatusCode::NOT_FOUND.into_response()
        }
    }))
}
