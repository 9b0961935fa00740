//! One node: its folder and file, its agent, its VM service, and how it is asked.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::Method;
use landfall_proto::{Class, Refusal};
use rustix::process::Signal;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::company::{self, MARK};
use super::until::{io, not_so, until};
use crate::cli::client::{Client, Patience};
use crate::drive::attach::Remote;
use crate::drive::directory::service_socket;
use crate::surface::Failure;
use crate::surface::event::Event;

/// How long an agent may take until it answers.
const ANSWERS_WITHIN: Duration = Duration::from_secs(20);
/// How long one command may take: each has a limit of its own below this.
const COMMAND_MAX: Duration = Duration::from_secs(90);
/// The lines of a log that are told after a failure, and the bytes that they are looked for in.
const TAIL_LINES: usize = 8;
const TAIL_BYTES: u64 = 16 * 1024;

/// What a node's file says beside names and places.
#[derive(Clone, Debug, Default)]
pub struct Part {
    /// Whether it only votes.
    pub witness: bool,
    /// Milliseconds between change sets of VMs that run there.
    pub interval_ms: Option<u64>,
    /// Whether it does not say where a replica went that it has handed over.
    pub drop_moved_notices: bool,
}

/// A node.
#[derive(Debug)]
pub struct Node {
    /// Its name.
    pub name: String,
    folder: PathBuf,
    program: PathBuf,
    mark: String,
    client: Client,
    agent: Mutex<Option<Child>>,
}

/// What a VM service writes into its lock file.
#[derive(Deserialize)]
struct Owner {
    pid: i32,
}

impl Node {
    /// Makes the node's folders and file under `stage`. `ports` are its control and data ports.
    pub fn create(stage: &Path, program: &Path, name: &str, part: &Part, ports: (u16, u16)) -> Result<Self, Refusal> {
        let folder = stage.join(name);
        let node = Self {
            name: name.to_owned(),
            program: program.to_owned(),
            mark: stage.to_string_lossy().into_owned(),
            client: Client::new(folder.join("landfall.sock")),
            folder,
            agent: Mutex::default(),
        };
        for folder in [node.folder.clone(), node.vms(), node.replicas()] {
            fs::create_dir_all(&folder).map_err(|error| io(&folder, &error))?;
        }
        let file = node.file();
        fs::write(&file, node.text(part, ports)).map_err(|error| io(&file, &error))?;
        Ok(node)
    }

    fn text(&self, part: &Part, (control, data): (u16, u16)) -> String {
        let place = |name: &str| toml::Value::from(self.folder.join(name).to_string_lossy().as_ref()).to_string();
        let mut text = format!("node = \"{}\"\ndata_dir = {}\n", self.name, place("data"));
        text += &format!("listen = \"127.0.0.1:{control}\"\ndata_listen = \"127.0.0.1:{data}\"\n");
        text += &format!("socket = {}\n", place("landfall.sock"));
        if part.witness {
            return text + "witness = true\n";
        }
        text += &format!("[vm_service]\nkind = \"directory\"\npath = {}\n", place("vms"));
        text += &format!("[[storage]]\nname = \"default\"\npath = {}\n", place("replicas"));
        // The story is shorter than an hour: every change set is a point.
        text += "[testing]\npoint_interval_ms = 0\n";
        if let Some(interval) = part.interval_ms {
            text += &format!("interval_ms = {interval}\n");
        }
        if part.drop_moved_notices {
            text += "drop_moved_notices = true\n";
        }
        text
    }

    fn file(&self) -> PathBuf {
        self.folder.join("node.toml")
    }

    /// The folder of its VMs.
    pub fn vms(&self) -> PathBuf {
        self.folder.join("vms")
    }

    /// The folder of its replicas' disks.
    pub fn replicas(&self) -> PathBuf {
        self.folder.join("replicas")
    }

    /// Its VM service, asked directly.
    pub fn vm_service(&self) -> Remote {
        Remote::new(service_socket(&self.vms()))
    }

    /// The process of its VM service.
    pub fn vm_service_pid(&self) -> Result<i32, Refusal> {
        let file = self.vms().join(".landfall").join("lock");
        let text = fs::read(&file).map_err(|error| io(&file, &error))?;
        let owner: Owner = serde_json::from_slice(&text)
            .map_err(|error| not_so(format!("{} does not name a process: {error}", file.display())))?;
        Ok(owner.pid)
    }

    /// Stops or continues its VM service.
    pub fn signal_vm_service(&self, signal: Signal) -> Result<(), Refusal> {
        company::signal(self.vm_service_pid()?, signal)
    }

    /// Starts the agent, which starts the VM service.
    pub fn start(&self) -> Result<(), Refusal> {
        let log = self.folder.join("agent.log");
        let open = || File::options().create(true).append(true).open(&log).map_err(|error| io(&log, &error));
        let mut command = std::process::Command::new(&self.program);
        command.arg("agent").arg("--config").arg(self.file()).env(MARK, &self.mark);
        command.stdin(Stdio::null()).stdout(open()?).stderr(open()?);
        // Not in the terminal's group: a Ctrl-C there ends the demo, which then ends the agents.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command.spawn().map_err(|error| io(&self.program, &error))?;
        *self.agent() = Some(child);
        Ok(())
    }

    /// Returns once the agent answers.
    pub async fn answers(&self) -> Result<(), Refusal> {
        let ended = until(&format!("the agent of {} to answer", self.name), ANSWERS_WITHIN, async || {
            if let Some(status) = self.agent().as_mut().and_then(|child| child.try_wait().ok().flatten()) {
                return Ok(Some(status));
            }
            match self.get::<Value>("/v1/cluster").await {
                Err(refusal) if refusal.code == "unreachable" => Err(refusal.into()),
                // In no cluster yet is an answer, too.
                _ => Ok(None),
            }
        })
        .await?;
        match ended {
            None => Ok(()),
            Some(status) => Err(not_so(format!("the agent of {} ended with {status}; see its log below", self.name))),
        }
    }

    /// Kills the agent and its VM service, as a power cut would: nothing gets to say goodbye.
    pub fn kill(&self) -> Result<(), Refusal> {
        let vm_service = self.vm_service_pid().ok();
        if let Some(mut child) = self.agent().take() {
            let failed = |error: std::io::Error| not_so(format!("the agent of {} is not killed: {error}", self.name));
            child.kill().map_err(failed)?;
            child.wait().map_err(failed)?;
        }
        vm_service.map_or(Ok(()), company::kill)
    }

    fn agent(&self) -> MutexGuard<'_, Option<Child>> {
        self.agent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs one command line at this node and returns what it printed as data.
    pub async fn command(&self, words: &[&str]) -> Result<Vec<u8>, Refusal> {
        let mut command = tokio::process::Command::new(&self.program);
        command.arg("--socket").arg(self.client.socket()).args(["-o", "json"]).args(words).env(MARK, &self.mark);
        command.stdin(Stdio::null()).kill_on_drop(true);
        let ended = tokio::time::timeout(COMMAND_MAX, command.output()).await;
        let output = ended
            .map_err(|_| not_so(format!("landfall {} has not ended after {} s", words[0], COMMAND_MAX.as_secs())))?
            .map_err(|error| io(&self.program, &error))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let talk = String::from_utf8_lossy(&output.stderr);
        let failure = talk.lines().rev().find_map(|line| serde_json::from_str::<Failure>(line).ok());
        Err(failure.map_or_else(
            || Refusal::new(Class::Failed, "demo_failed", format!("landfall {} {}: {talk}", words[0], output.status)),
            Refusal::from,
        ))
    }

    /// Asks the local API, without telling: for looking again and again.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Refusal> {
        self.client.send(Method::GET, path, None::<&()>, Patience::Quick).await?.shape()
    }

    /// What the agent has noted lately.
    pub async fn events(&self) -> Result<Vec<Event>, Refusal> {
        let mut feed = self.client.feed("/v1/events?recent=200&follow=false").await?;
        let mut events = Vec::new();
        while let Some(message) = feed.next().await? {
            events.push(message.shape()?);
        }
        Ok(events)
    }

    /// The ends of its logs, each with its name.
    pub fn log_tails(&self) -> Vec<(String, Vec<String>)> {
        let logs = [self.folder.join("agent.log"), self.vms().join(".landfall").join("vm-service.log")];
        let kinds = ["agent", "VM service"];
        logs.iter()
            .zip(kinds)
            .filter_map(|(path, kind)| Some((format!("the log of {}'s {kind}", self.name), tail(path)?)))
            .collect()
    }
}

/// The last lines of a log; `None` where there is nothing.
fn tail(path: &Path) -> Option<Vec<String>> {
    use std::os::unix::fs::FileExt;
    let file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    let start = length.saturating_sub(TAIL_BYTES);
    let mut bytes = vec![0; usize::try_from(length - start).ok()?];
    file.read_exact_at(&mut bytes, start).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let skipped = lines.len().saturating_sub(TAIL_LINES);
    (!lines.is_empty()).then(|| lines.into_iter().skip(skipped).collect())
}

/// `count` pairs of ports that were free a moment ago, all different.
pub fn free_ports(count: usize) -> Result<Vec<(u16, u16)>, Refusal> {
    let failed = |error: std::io::Error| not_so(format!("no free port on 127.0.0.1: {error}"));
    let open = || UdpSocket::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).map_err(failed);
    // All are held until the last one is found.
    let held = (0..count).map(|_| Ok((open()?, open()?))).collect::<Result<Vec<_>, Refusal>>()?;
    let port = |socket: &UdpSocket| socket.local_addr().map(|address| address.port()).map_err(failed);
    held.iter().map(|(control, data)| Ok((port(control)?, port(data)?))).collect()
}
