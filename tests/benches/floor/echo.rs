//! Request and answer over open mTLS connections: 64 bytes there, 64 bytes back, a stream each.

use std::time::{Duration, Instant};

use landfall_kit::table::quantile;
use quinn::{Connection, Endpoint};

use super::link::Link;

const REQUEST: [u8; 64] = [7; 64];

/// What was measured.
pub struct Echoed {
    /// The median time of one request, in microseconds.
    pub p50_micros: f64,
    /// Requests a second, of all clients together.
    pub per_second: f64,
}

/// Keeps `streams` requests under way on each of `connections` for `long`. Both ends run in this process.
pub fn measure(connections: usize, streams: usize, long: Duration) -> Echoed {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let link = Link::new();
        let server = tokio::spawn(serve(link.server.clone()));
        let mut clients = Vec::new();
        for _ in 0..connections {
            let connection = link.connect().await;
            // The first requests open windows and warm caches.
            ask(&connection).await;
            clients.extend((0..streams).map(|_| connection.clone()));
        }
        let begun = Instant::now();
        let tasks: Vec<_> = clients.into_iter().map(|connection| tokio::spawn(keep_asking(connection, long))).collect();
        let mut micros = Vec::new();
        for task in tasks {
            micros.extend(task.await.expect("a client"));
        }
        let per_second = micros.len() as f64 / begun.elapsed().as_secs_f64();
        server.abort();
        micros.sort_unstable_by(f64::total_cmp);
        Echoed { p50_micros: quantile(&micros, 0.5), per_second }
    })
}

async fn keep_asking(connection: Connection, long: Duration) -> Vec<f64> {
    let (begun, mut micros) = (Instant::now(), Vec::new());
    while begun.elapsed() < long {
        let asked = Instant::now();
        ask(&connection).await;
        micros.push(asked.elapsed().as_secs_f64() * 1e6);
    }
    micros
}

async fn ask(connection: &Connection) {
    let (mut send, mut recv) = connection.open_bi().await.expect("a stream");
    send.write_all(&REQUEST).await.expect("a request");
    send.finish().expect("an open stream");
    let answer = recv.read_to_end(REQUEST.len()).await.expect("an answer");
    assert_eq!(answer, REQUEST);
}

async fn serve(endpoint: Endpoint) {
    while let Some(incoming) = endpoint.accept().await {
        tokio::spawn(async move {
            let Ok(connection) = incoming.await else { return };
            while let Ok((mut send, mut recv)) = connection.accept_bi().await {
                tokio::spawn(async move {
                    let Ok(request) = recv.read_to_end(REQUEST.len()).await else { return };
                    if send.write_all(&request).await.is_ok() {
                        send.finish().ok();
                    }
                });
            }
        });
    }
}
