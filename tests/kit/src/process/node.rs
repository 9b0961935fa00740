//! One node: its folder, its configuration file, its agent and whatever that starts.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use toml::Table;

use super::command::{Answer, CALL_MAX, Failure};
use super::eventually::eventually;
use super::family::Family;
use super::port::PortPair;

/// How long an agent may take until its socket answers, or until it is gone after SIGTERM.
const START_MAX: Duration = Duration::from_secs(30);
/// How many lines of a log are shown when a test fails.
const LOG_LINES_SHOWN: usize = 60;

/// What a node is to be.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    /// Its name.
    pub name: String,
    /// Whether it only votes and stores the log.
    pub witness: bool,
    /// Further keys of its file, which replace those that the harness writes; a `[testing]` table goes here, over the
    /// harness's own, in which every change set is a point (`point_interval_ms = 0`).
    pub config: Table,
    /// Further environment of its agent.
    pub environment: Vec<(String, String)>,
    /// The command that starts its agent, in front of the program: `ip netns exec NAME`.
    pub within: Vec<String>,
}

impl NodeSpec {
    /// A node that hosts VMs.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            witness: false,
            config: Table::new(),
            environment: Vec::new(),
            within: Vec::new(),
        }
    }

    /// A witness.
    pub fn witness(name: &str) -> Self {
        Self { witness: true, ..Self::new(name) }
    }
}

/// A node of a running test.
#[derive(Debug)]
pub struct Node {
    spec: NodeSpec,
    binary: PathBuf,
    folder: PathBuf,
    family: Family,
    running: Mutex<Running>,
}

#[derive(Debug)]
struct Running {
    agent: Option<Child>,
    ports: PortPair,
}

impl Node {
    /// Makes the folder and file of a node below `folder`; starts nothing.
    ///
    /// Its data folder, VM folder, storage location and socket are all inside; socket paths hold 107 bytes, so `folder`
    /// must be short.
    pub(super) fn create(binary: &Path, folder: &Path, mark: &str, spec: NodeSpec) -> Self {
        let folder = folder.join(&spec.name);
        let ports = PortPair::take().expect("two free UDP ports");
        for part in ["data", "vms", "replicas"] {
            fs::create_dir_all(folder.join(part)).expect("a temporary folder can be written");
        }
        let family = Family::new(&format!("{mark}/{}", spec.name), &folder);
        let running = Mutex::new(Running { agent: None, ports });
        let node = Self { spec, binary: binary.to_owned(), folder, family, running };
        fs::write(node.config_file(), node.config().to_string()).expect("a temporary folder can be written");
        node
    }

    fn config(&self) -> Table {
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        let address = self.address();
        let mut config = Table::new();
        config.insert("node".into(), self.spec.name.clone().into());
        config.insert("data_dir".into(), text(self.data_dir()).into());
        config.insert("listen".into(), address.clone().into());
        config.insert("advertise".into(), address.into());
        config.insert("socket".into(), text(self.socket()).into());
        config.insert("witness".into(), self.spec.witness.into());
        if !self.spec.witness {
            let mut service = Table::new();
            service.insert("kind".into(), "directory".into());
            service.insert("path".into(), text(self.vm_path()).into());
            config.insert("vm_service".into(), service.into());
            let mut storage = Table::new();
            storage.insert("name".into(), "default".into());
            storage.insert("path".into(), text(self.storage_path()).into());
            config.insert("storage".into(), vec![toml::Value::from(storage)].into());
        }
        // Each change set is a point, unless the test says otherwise: stories are shorter than an hour.
        let mut testing = Table::new();
        testing.insert("point_interval_ms".into(), 0.into());
        let further = self.spec.config.clone();
        if let Some(own) = further.get("testing").and_then(toml::Value::as_table) {
            testing.extend(own.clone());
        }
        config.extend(further);
        config.insert("testing".into(), testing.into());
        config
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Whether it is a witness.
    pub fn is_witness(&self) -> bool {
        self.spec.witness
    }

    /// The folder of everything that is this node's.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The node's configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.folder.join("node.toml")
    }

    /// The agent's data folder.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// The folder in which VMs are folders.
    pub fn vm_path(&self) -> PathBuf {
        self.folder.join("vms")
    }

    /// The storage location `default`.
    pub fn storage_path(&self) -> PathBuf {
        self.folder.join("replicas")
    }

    /// The local API's socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("s")
    }

    /// The address of the control port, as in the node's file.
    pub fn address(&self) -> String {
        self.lock().ports.control().to_string()
    }

    /// The addresses of the control port and of the data port, at which the agent listens and from which it dials.
    pub fn ports(&self) -> (SocketAddr, SocketAddr) {
        let ports = &self.lock().ports;
        (ports.control(), ports.data())
    }

    /// Every process of this node: agent, VM service, guests.
    pub fn family(&self) -> &Family {
        &self.family
    }

    /// Starts the agent; does nothing where it runs. Returns before it answers: see [`Node::wait_ready`].
    pub fn start(&self) {
        let mut running = self.lock();
        if running.agent.as_mut().is_some_and(|agent| matches!(agent.try_wait(), Ok(None))) {
            return;
        }
        running.ports.release();
        let mut words = self.spec.within.iter().map(AsRef::<OsStr>::as_ref).chain([self.binary.as_os_str()]);
        let mut command = self.command_of(words.next().unwrap_or_default());
        command.args(words).arg("agent").arg("--config").arg(self.config_file());
        command.envs(self.spec.environment.iter().map(|(name, value)| (name, value)));
        let log = self.open_log();
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a file can be shared")).stderr(log);
        // Signals to one agent must not reach the test or another node.
        command.process_group(0);
        let agent = command.spawn();
        running.agent =
            Some(agent.unwrap_or_else(|fault| panic!("{} cannot be started: {fault}", self.binary.display())));
    }

    /// Waits until the agent's socket answers.
    ///
    /// # Panics
    ///
    /// Where the agent ends first, or time runs out.
    pub fn wait_ready(&self) {
        eventually(START_MAX, &format!("{} to answer at its socket", self.name()), || {
            if let Some(status) = self.exit_status() {
                panic!("the agent of {} ended with {status}:\n{}", self.name(), self.log_tail());
            }
            UnixStream::connect(self.socket()).map(|_| ())
        });
    }

    /// How the agent ended; `None` while it runs or was not started.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.lock().agent.as_mut()?.try_wait().ok()?
    }

    /// The agent's process.
    pub fn agent_id(&self) -> Option<u32> {
        let mut running = self.lock();
        let agent = running.agent.as_mut()?;
        matches!(agent.try_wait(), Ok(None)).then(|| agent.id())
    }

    /// Kills the agent alone (SIGKILL); its VM service and guests go on.
    pub fn kill_agent(&self) {
        if let Some(mut agent) = self.lock().agent.take() {
            agent.kill().ok();
            agent.wait().ok();
        }
    }

    /// Asks the agent to end (SIGTERM) and waits until it has.
    pub fn end_agent(&self) -> ExitStatus {
        self.signal_agent(Signal::TERM);
        eventually(START_MAX, &format!("{} to end", self.name()), || self.exit_status())
    }

    /// Kills and starts the agent, and waits until it answers.
    pub fn restart_agent(&self) {
        self.kill_agent();
        self.start();
        self.wait_ready();
    }

    /// Stops the agent's process (SIGSTOP), as a hung machine's would be; VM service and guests go on.
    pub fn stop_agent(&self) {
        self.signal_agent(Signal::STOP);
    }

    /// Lets a stopped agent go on (SIGCONT).
    pub fn continue_agent(&self) {
        self.signal_agent(Signal::CONT);
    }

    /// The node dies: agent, VM service and guests are killed at once. Its files stay.
    pub fn lose(&self) {
        self.kill_agent();
        self.family.kill();
    }

    /// The whole node stands still: agent, VM service and guests.
    pub fn freeze(&self) {
        self.family.signal(Signal::STOP);
    }

    /// A frozen node goes on.
    pub fn thaw(&self) {
        self.family.signal(Signal::CONT);
    }

    /// The process of the node's VM service.
    pub fn vm_service_id(&self) -> Option<u32> {
        let id = self.family.with_argument("vm-service");
        id.first().copied()
    }

    /// Stops the VM service's process (SIGSTOP), as a hung one's would be; agent and guests go on.
    pub fn stop_vm_service(&self) {
        self.signal_vm_service(Signal::STOP);
    }

    /// Lets a stopped VM service go on (SIGCONT).
    pub fn continue_vm_service(&self) {
        self.signal_vm_service(Signal::CONT);
    }

    fn signal_vm_service(&self, signal: Signal) {
        let id = self.vm_service_id().unwrap_or_else(|| panic!("the VM service of {} does not run", self.name()));
        assert!(self.family.signal_one(id, signal), "the VM service of {} is gone", self.name());
    }

    /// Kills (SIGKILL) the processes of this node one of whose arguments is `argument`, and returns how many there were.
    pub fn kill_with_argument(&self, argument: &str) -> usize {
        let found = self.family.with_argument(argument);
        found.into_iter().filter(|&id| self.family.signal_one(id, Signal::KILL)).count()
    }

    /// What the agent has told lately, the oldest first: the last thousand events. Nothing where it does not answer.
    pub fn events(&self) -> Vec<Value> {
        let answer = self.call(["event", "tail", "--recent", "1000", "--no-follow", "-o", "json"]);
        answer.stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Calls the command line at this node's socket, for JSON, and returns what it printed (`null` where nothing).
    ///
    /// # Panics
    ///
    /// Where it fails.
    #[track_caller]
    pub fn cli<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Value {
        let answer = self.call(with_json(arguments));
        answer.json().unwrap_or_else(|_| panic!("at {}: {answer}", self.name()))
    }

    /// Calls the command line at this node's socket, for JSON or the documented failure.
    #[track_caller]
    pub fn try_cli<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Result<Value, Failure> {
        self.call(with_json(arguments)).json()
    }

    /// Calls the command line at this node's socket with exactly these arguments.
    pub fn call<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Answer {
        self.call_within(CALL_MAX, arguments)
    }

    /// Calls the command line as [`Node::call`] does, and kills it after `limit`.
    pub fn call_within<'a>(&self, limit: Duration, arguments: impl IntoIterator<Item = &'a str>) -> Answer {
        let mut command = self.command();
        command.args(arguments);
        Answer::of(command, limit)
    }

    /// The agent's log so far, all starts of it.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// The end of the log.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
    }

    fn command(&self) -> Command {
        self.command_of(self.binary.as_os_str())
    }

    fn command_of(&self, program: &OsStr) -> Command {
        let (name, value) = self.family.variable();
        let mut command = Command::new(program);
        // A log that is searched and shown has no colours.
        command.env(name, value).env("LANDFALL_SOCKET", self.socket()).env("NO_COLOR", "1").current_dir(&self.folder);
        command
    }

    fn signal_agent(&self, signal: Signal) {
        let agent = self.agent_id().unwrap_or_else(|| panic!("the agent of {} does not run", self.name()));
        let pid = i32::try_from(agent).ok().and_then(Pid::from_raw).expect("a process has a number");
        // Not yet collected, so the number is still this process's.
        kill_process(pid, signal).unwrap_or_else(|fault| panic!("the agent of {}: {fault}", self.name()));
    }

    fn log_file(&self) -> PathBuf {
        self.folder.join("agent.log")
    }

    fn open_log(&self) -> File {
        OpenOptions::new().create(true).append(true).open(self.log_file()).expect("a temporary folder can be written")
    }

    fn lock(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.lose();
    }
}

fn with_json<'a>(arguments: impl IntoIterator<Item = &'a str>) -> impl Iterator<Item = &'a str> {
    arguments.into_iter().chain(["-o", "json"])
}
