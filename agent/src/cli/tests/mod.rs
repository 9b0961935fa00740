//! The command line against a served API over a real unix socket, through [`super::run`].

mod asks;
mod failures;
mod feeds;
mod lines;
mod local;
mod pages;
mod tables;

use std::ffi::OsString;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use landfall_proto::Refusal;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use super::{Console, Demo, Hooks, run};
use crate::drive::api::{LocalSocket, serve};
use crate::surface::fake::Fake;

/// What a test waits for at most.
const DEADLINE: Duration = Duration::from_secs(20);

/// A stream that is written by a command and read by the test.
#[derive(Clone, Default)]
struct Stream(Arc<(Mutex<Vec<u8>>, Condvar)>);

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.0.lock().unwrap().extend_from_slice(bytes);
        self.0.1.notify_all();
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Stream {
    fn text(&self) -> String {
        String::from_utf8(self.0.0.lock().unwrap().clone()).unwrap()
    }

    /// Waits until `count` whole lines are there.
    fn lines(&self, count: usize) -> Vec<String> {
        let enough = |bytes: &mut Vec<u8>| bytes.iter().filter(|byte| **byte == b'\n').count() < count;
        let (bytes, timeout) = self.0.1.wait_timeout_while(self.0.0.lock().unwrap(), DEADLINE, enough).unwrap();
        assert!(!timeout.timed_out(), "{count} lines: {:?}", String::from_utf8_lossy(&bytes));
        String::from_utf8(bytes.clone()).unwrap().lines().map(str::to_owned).collect()
    }
}

/// What runs in the process, remembered.
#[derive(Default)]
struct Remembered {
    calls: Mutex<Vec<String>>,
    faults: Vec<Refusal>,
}

impl Remembered {
    fn call(&self, call: String) -> Result<(), Vec<Refusal>> {
        self.calls.lock().unwrap().push(call);
        if self.faults.is_empty() { Ok(()) } else { Err(self.faults.clone()) }
    }
}

impl Hooks for Remembered {
    fn agent(&self, config: &Path) -> Result<(), Vec<Refusal>> {
        self.call(format!("agent {}", config.display()))
    }
    fn vm_service(&self, config: &Path) -> Result<(), Vec<Refusal>> {
        self.call(format!("vm-service {}", config.display()))
    }
    fn demo(&self, demo: &Demo) -> Result<(), Vec<Refusal>> {
        self.call(format!("{demo:?}"))
    }
    fn config_check(&self, file: &Path) -> Result<(), Vec<Refusal>> {
        self.call(format!("config check {}", file.display()))
    }
    fn guest(&self, arguments: &[OsString]) -> Result<(), Vec<Refusal>> {
        self.call(format!("guest {arguments:?}"))
    }
    fn settings_help(&self) -> String {
        "Settings:\n  node_down_after  2s to 1h, default 5s\n".to_owned()
    }
}

/// How a command ended.
#[derive(Debug)]
struct Done {
    code: u8,
    out: String,
    err: String,
}

/// Who runs a command.
#[derive(Clone, Copy)]
enum Reader {
    /// A script: neither output nor error is a terminal.
    Script,
    /// A person at a terminal.
    Person,
}

/// Runs `landfall` with `arguments`.
fn landfall(reader: Reader, stdin: &str, arguments: &[&str]) -> Done {
    let (out, err) = (Stream::default(), Stream::default());
    let code = start(reader, stdin, arguments, &Remembered::default(), &out, &err);
    Done { code, out: out.text(), err: err.text() }
}

fn start(reader: Reader, stdin: &str, arguments: &[&str], hooks: &Remembered, out: &Stream, err: &Stream) -> u8 {
    let terminal = matches!(reader, Reader::Person);
    let stdin = Box::new(Cursor::new(stdin.as_bytes().to_vec()));
    let mut console = Console::new(stdin, Box::new(out.clone()), Box::new(err.clone()), (terminal, terminal));
    let arguments = ["landfall"].iter().chain(arguments).map(OsString::from);
    run(arguments, &mut console, hooks)
}

/// An agent's API, served in the background.
struct Agent {
    fake: Arc<Fake>,
    socket: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    server: Option<tokio::task::JoinHandle<()>>,
    runtime: Runtime,
    _folder: TempDir,
}

impl Agent {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("landfall.sock");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let fake = Arc::new(Fake::default());
        let (stop, stopped) = oneshot::channel();
        let local = {
            let _inside = runtime.enter();
            LocalSocket::bind(&socket).unwrap()
        };
        let server = runtime.spawn(serve(local, fake.clone(), async { drop(stopped.await) }));
        Self { fake, socket, stop: Some(stop), server: Some(server), runtime, _folder: folder }
    }

    /// A command asked at this agent by a script.
    fn ask(&self, arguments: &[&str]) -> Done {
        self.ask_as(Reader::Script, arguments)
    }

    fn ask_as(&self, reader: Reader, arguments: &[&str]) -> Done {
        landfall(reader, "", &self.at(arguments))
    }

    fn at<'a>(&'a self, arguments: &[&'a str]) -> Vec<&'a str> {
        [&["--socket", self.socket.to_str().unwrap()], arguments].concat()
    }

    /// A command that goes on in the background; its output and its exit code.
    fn follow(&self, arguments: &[&str]) -> (Stream, Stream, JoinHandle<u8>) {
        let (out, err) = (Stream::default(), Stream::default());
        let arguments: Vec<String> = self.at(arguments).iter().map(ToString::to_string).collect();
        let (told, said) = (out.clone(), err.clone());
        let command = std::thread::spawn(move || {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            start(Reader::Script, "", &arguments, &Remembered::default(), &told, &said)
        });
        (out, err, command)
    }

    fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(server) = self.server.take() {
            self.runtime.block_on(async { tokio::time::timeout(DEADLINE, server).await.unwrap().unwrap() });
        }
    }
}
