//! Starts the node's VM service where none answers, in such a way that it outlives whoever started it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use landfall_proto::{Class, Refusal};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use super::remote::Remote;
use crate::drive::directory::service_socket;
use crate::vm_service::VmService;

/// How long a VM service may take until it answers: it adopts its VMs first.
const ANSWER_WAIT: Duration = Duration::from_secs(20);
/// Between two looks whether it answers.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The longest its log may be when it starts; a longer one is set aside.
const LOG_MAX: u64 = 8 << 20;
/// How much of the log's end is told where it does not start.
const LOG_TAIL: u64 = 2048;

/// How to start the VM service of a VM path.
#[derive(Clone, Debug)]
pub struct Spawn {
    /// The program; it must end up in [`run`](super::run).
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// The VM path.
    pub path: PathBuf,
}

/// Whether a VM service had to be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spawned {
    /// One answered already.
    Answers,
    /// It was started, as this process.
    Started(u32),
}

impl Spawn {
    /// `landfall vm-service --config FILE`, run by this very program, for the VM path `path`.
    pub fn own(config: &Path, path: &Path) -> Self {
        let arguments = vec!["vm-service".into(), "--config".into(), config.into()];
        Self { program: "/proc/self/exe".into(), arguments, path: path.to_owned() }
    }

    /// Returns once a VM service answers. Where it cannot start, the refusal says what it said.
    pub async fn ensure(&self) -> Result<Spawned, Refusal> {
        let socket = service_socket(&self.path);
        if answers(&socket).await {
            return Ok(Spawned::Answers);
        }
        let log = self.open_log(&socket).map_err(|error| self.failed(&error.to_string()))?;
        let start = log.metadata().map_or(0, |metadata| metadata.len());
        let mut child = self.start(&log).map_err(|error| self.failed(&error.to_string()))?;
        let pid = child.id().unwrap_or_default();
        let deadline = Instant::now() + ANSWER_WAIT;
        while Instant::now() < deadline {
            if answers(&socket).await {
                return Ok(Spawned::Started(pid));
            }
            if let Ok(Some(status)) = child.try_wait() {
                return Err(self.failed(&format!("it ended with {status}: {}", tail(&log, start))));
            }
            sleep(LOOK_EVERY).await;
        }
        Err(self.failed(&format!("process {pid} does not answer within {} s", ANSWER_WAIT.as_secs())))
    }

    fn start(&self, log: &File) -> io::Result<Child> {
        Command::new(&self.program)
            .args(&self.arguments)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log.try_clone()?)
            .spawn()
    }

    fn open_log(&self, socket: &Path) -> io::Result<File> {
        let folder = socket.parent().unwrap_or(Path::new("/"));
        std::fs::create_dir_all(folder)?;
        let path = folder.join("vm-service.log");
        if path.metadata().is_ok_and(|metadata| metadata.len() > LOG_MAX) {
            std::fs::rename(&path, path.with_extension("log.1"))?;
        }
        File::options().create(true).read(true).append(true).open(path)
    }

    fn failed(&self, why: &str) -> Refusal {
        let message = format!("the VM service of {} does not start: {why}", self.path.display());
        Refusal::new(Class::Failed, "vm_service_unreachable", message).remedy(
            "run landfall vm-service --config FILE by hand, and see vm-service.log in the VM path's .landfall folder",
        )
    }
}

/// Whether anybody speaks the protocol there; a refusal of its own is an answer, too.
async fn answers(socket: &Path) -> bool {
    match Remote::new(socket).probe().await {
        Ok(()) => true,
        Err(refusal) => refusal.class != Class::Unreachable,
    }
}

/// The end of what was written to the log since `start`, in one line.
fn tail(log: &File, start: u64) -> String {
    let mut log = log;
    let length = log.metadata().map_or(0, |metadata| metadata.len());
    let mut bytes = Vec::new();
    let read = log
        .seek(SeekFrom::Start(start.max(length.saturating_sub(LOG_TAIL))))
        .and_then(|_| log.take(LOG_TAIL).read_to_end(&mut bytes));
    if read.is_err() {
        return String::new();
    }
    String::from_utf8_lossy(&bytes).trim().replace('\n', " | ")
}
