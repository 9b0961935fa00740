//! The API over a real socket, with an agent behind it that only remembers what it was asked.

mod bounds;
mod feed;
mod routes;
mod socket;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{LocalSocket, serve};
use crate::surface::fake::Fake;

/// What a test may take at most; a condition that has not come by then never comes.
const DEADLINE: Duration = Duration::from_secs(20);

/// `work`, which must be done within the deadline.
async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, work).await.expect("not done within the deadline")
}

/// A served API.
struct Served {
    fake: Arc<Fake>,
    socket: PathBuf,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
    _folder: TempDir,
}

impl Served {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("landfall.sock");
        let (fake, local) = (Arc::new(Fake::default()), LocalSocket::bind(&socket).unwrap());
        let (stop, stopped) = oneshot::channel();
        let server = tokio::spawn(serve(local, fake.clone(), async { drop(stopped.await) }));
        Self { fake, socket, stop, server, _folder: folder }
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.socket).await.unwrap()
    }

    /// Sends a request whose body is `body`; gives status and JSON.
    async fn ask(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let mut stream = self.connect().await;
        soon(exchange(&mut stream, method, path, body)).await
    }

    async fn stop(self) -> PathBuf {
        self.stop.send(()).unwrap();
        soon(self.server).await.unwrap();
        self.socket
    }
}

/// One request on `stream` and its answer.
async fn exchange(stream: &mut UnixStream, method: &str, path: &str, body: &str) -> (u16, Value) {
    let length = body.len();
    let request =
        format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    // The server may answer, and close, before it has read a body that it refuses.
    let _ = stream.write_all(body.as_bytes()).await;
    answer(stream).await
}

/// The status and the JSON of the answer that ends with the connection.
async fn answer(stream: &mut UnixStream) -> (u16, Value) {
    let mut text = Vec::new();
    let read = stream.read_to_end(&mut text).await;
    let text = String::from_utf8(text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {read:?} {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    assert!(head.to_lowercase().contains("content-type: application/json"), "{head}");
    (status, serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}")))
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
}
