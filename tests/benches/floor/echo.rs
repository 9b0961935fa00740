//! Request and answer over open mTLS connections: 64 bytes there, 64 bytes back, a stream each. The server is a process
//! of its own, as whoever is asked always is.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use landfall_kit::table::quantile;
use quinn::{Connection, Endpoint};

use super::link::{Client, Papers, server};

const REQUEST: [u8; 64] = [7; 64];
/// Makes a process serve: its certificates come over its standard input, which ends when it is to end.
const SERVE: &str = "LANDFALL_FLOOR_ECHO";

/// What was measured.
pub struct Echoed {
    /// The median time of one request, in microseconds.
    pub p50_micros: f64,
    /// Requests a second, of all clients together.
    pub per_second: f64,
}

/// A server in a process of its own, and who may ask it.
struct Served {
    process: Child,
    client: Papers,
    address: String,
}

impl Served {
    fn start() -> Self {
        let (papers, client) = Papers::pair();
        let mut command = Command::new(std::env::current_exe().expect("a running program has a path"));
        command.env(SERVE, "1").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("a process");
        let stdin = process.stdin.as_mut().expect("a pipe");
        writeln!(stdin, "{}", papers.to_text()).expect("a process that listens");
        let mut address = String::new();
        let stdout = process.stdout.take().expect("a pipe");
        BufReader::new(stdout).read_line(&mut address).expect("an address");
        Self { process, client, address: address.trim().to_owned() }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        self.process.wait().ok();
    }
}

/// Keeps `streams` requests under way on each of `connections` for `long`.
pub fn measure(connections: usize, streams: usize, long: Duration) -> Echoed {
    let served = Served::start();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let client = Client::new(&served.client, served.address.parse().expect("an address"));
        let mut clients = Vec::new();
        for _ in 0..connections {
            let connection = client.connect().await;
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
        micros.sort_unstable_by(f64::total_cmp);
        Echoed { p50_micros: quantile(&micros, 0.5), per_second }
    })
}

/// Serves and ends the process, where this process is the server.
pub fn play_child() {
    if std::env::var_os(SERVE).is_none() {
        return;
    }
    let mut input = BufReader::new(std::io::stdin());
    let mut papers = String::new();
    input.read_line(&mut papers).expect("certificates");
    // One more than an agent has: the floor is as fast as it gets with a client beside it.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let endpoint = runtime.block_on(async { server(&Papers::from_text(papers.trim())) });
    println!("{}", endpoint.local_addr().expect("a bound socket"));
    runtime.spawn(serve(endpoint));
    // Until whoever measures lets go, or is gone.
    input.read_to_end(&mut Vec::new()).ok();
    std::process::exit(0);
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
