//! Starts a VM's command in a session of its own, with its images locked for as long as it lives.
//!
//! The service runs its own program once more as a launcher (`landfall vm-exec`): that leaves the session, locks the
//! images with descriptors that the command inherits, and becomes the command. So neither the death of the service nor
//! its restart touches the VM or gives its images free. The launcher's standard error reaches the service until the
//! command takes its place: silence and the end of it mean success.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use landfall_proto::refusal::quoted;
use landfall_proto::{Class, Refusal};
use rustix::fs::{FlockOperation, flock};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use serde::{Deserialize, Serialize};

use super::foreign;
use super::group::{Group, RUN_VARIABLE, Session};
use super::process::Process;

/// The variable that tells a launcher what to do.
const JOB_VARIABLE: &str = "LANDFALL_LAUNCH";
/// How long a launcher may take: it opens files and runs nothing.
const LAUNCH_WAIT: Duration = Duration::from_secs(10);
/// The most of a launcher's complaint that is read.
const COMPLAINT_MAX: u64 = 64 << 10;
/// What a VM writes to its standard output and error, in its folder.
pub(super) const LOGS: [&str; 2] = ["stdout.log", "stderr.log"];

/// How to run this program as a launcher: something that ends up in [`launch`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launcher {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

impl Default for Launcher {
    /// This very program, even where its file was replaced, as `landfall vm-exec`.
    fn default() -> Self {
        Self { program: "/proc/self/exe".into(), arguments: vec!["vm-exec".into()] }
    }
}

/// What a launcher is to become.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Job {
    /// The VM's folder.
    pub folder: PathBuf,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// The images to lock.
    pub images: Vec<PathBuf>,
    /// What the command is told beside its arguments.
    pub environment: Vec<(String, String)>,
}

impl Launcher {
    /// Starts `job`, its processes marked with `token`. On refusal nothing runs.
    pub(super) fn start(&self, job: &Job, token: &str) -> Result<Group, Refusal> {
        let failed = |why: String| {
            Refusal::new(Class::Failed, "start_failed", format!("{}: {why}", job.folder.display()))
                .field("command")
                .remedy("check command in vm.toml and stderr.log beside it")
        };
        let text = serde_json::to_string(job).map_err(|error| failed(error.to_string()))?;
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .env(JOB_VARIABLE, text)
            .env(RUN_VARIABLE, token)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| failed(format!("cannot start the launcher: {error}")))?;
        match complaint(&mut child) {
            Ok(None) => {}
            Ok(Some(refusal)) => {
                _ = child.wait();
                return Err(refusal);
            }
            Err(why) => {
                _ = child.kill();
                _ = child.wait();
                return Err(failed(why));
            }
        }
        let pid = child.id() as i32;
        match Process::read(pid) {
            Some(process) => Ok(Group::started(Session { pid, start: process.start }, child)),
            None => Err(failed("it ended at once".to_owned())),
        }
    }
}

/// What the launcher has to say before it becomes the command.
fn complaint(child: &mut Child) -> Result<Option<Refusal>, String> {
    let Some(pipe) = child.stderr.take() else { return Err("the launcher has no standard error".to_owned()) };
    let (sender, receiver) = mpsc::sync_channel(1);
    let reader = std::thread::Builder::new().name("launch".to_owned()).spawn(move || {
        let mut text = String::new();
        let result = pipe.take(COMPLAINT_MAX).read_to_string(&mut text);
        _ = sender.send(result.map(|_| text));
    });
    reader.map_err(|error| error.to_string())?;
    match receiver.recv_timeout(LAUNCH_WAIT) {
        Ok(Ok(text)) if text.is_empty() => Ok(None),
        Ok(Ok(text)) => Ok(Some(serde_json::from_str(&text).map_err(|_| text.trim().to_owned())?)),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("the launcher did not finish within {} s", LAUNCH_WAIT.as_secs())),
    }
}

/// Becomes the command that the service asked for. Returns only where that fails; the service has been told why.
pub fn launch() -> ExitCode {
    let report = fcntl_dupfd_cloexec(std::io::stderr(), 0);
    let refusal = match std::env::var(JOB_VARIABLE).ok().and_then(|text| serde_json::from_str::<Job>(&text).ok()) {
        Some(job) => become_command(&job),
        None => {
            Refusal::new(Class::Usage, "not_by_hand", "only the VM service runs this").remedy("use landfall vm-service")
        }
    };
    match (report, serde_json::to_string(&refusal)) {
        (Ok(report), Ok(text)) => _ = File::from(report).write_all(text.as_bytes()),
        _ => tracing::error!(%refusal, "cannot tell the VM service why a VM does not start"),
    }
    ExitCode::FAILURE
}

fn become_command(job: &Job) -> Refusal {
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        let message =
            format!("cannot run {} in {}: {what}: {error}", quoted(&job.command.join(" ")), job.folder.display());
        Refusal::new(Class::Failed, "start_failed", message)
            .field("command")
            .remedy("check command in vm.toml: a path with a slash is relative to the VM's folder")
    };
    if let Err(error) = rustix::process::setsid() {
        return failed("no session of its own", &error);
    }
    let locks: Result<Vec<OwnedFd>, Refusal> = job.images.iter().map(|image| lock_for_heirs(image)).collect();
    let _locks = match locks {
        Ok(locks) => locks,
        Err(refusal) => return refusal,
    };
    let mut logs = Vec::new();
    for name in LOGS {
        match File::options().create(true).append(true).open(job.folder.join(name)) {
            Ok(log) => logs.push(log),
            Err(error) => return failed(name, &error),
        }
    }
    let Some((program, arguments)) = job.command.split_first() else { return failed("empty", &"no program") };
    let program = if program.contains('/') { job.folder.join(program) } else { PathBuf::from(program) };
    let mut command = Command::new(&program);
    command.args(arguments).current_dir(&job.folder).env_remove(JOB_VARIABLE).stdin(Stdio::null());
    command.envs(job.environment.iter().map(|(name, value)| (name, value)));
    if let (Some(stderr), Some(stdout)) = (logs.pop(), logs.pop()) {
        command.stdout(stdout).stderr(stderr);
    }
    failed(&program.display().to_string(), &command.exec())
}

/// Locks an image with a descriptor that stays open in the command and in whatever that starts.
fn lock_for_heirs(image: &Path) -> Result<OwnedFd, Refusal> {
    let file = lock(image, true)?;
    let descriptor = OwnedFd::from(file);
    fcntl_setfd(&descriptor, FdFlags::empty()).map_err(|error| foreign::unusable(image, &error.to_string()))?;
    Ok(descriptor)
}

/// Opens an image and takes the lock on it, or says that another has it.
pub(super) fn lock(image: &Path, writable: bool) -> Result<File, Refusal> {
    let file = File::options().read(true).write(writable).open(image);
    let file = file.map_err(|error| foreign::unusable(image, &error.to_string()))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(foreign::locked(image, "another process")),
        Err(error) => Err(foreign::unusable(image, &format!("cannot be locked: {error}"))),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// This test binary as a launcher.
    pub(in crate::drive::directory) fn launcher() -> Launcher {
        let arguments = ["--exact", "drive::directory::launch::tests::becomes_the_command", "--nocapture"];
        Launcher {
            program: std::env::current_exe().unwrap(),
            arguments: arguments.into_iter().map(OsString::from).collect(),
        }
    }

    /// The other end of [`launcher`]; by itself it checks that nobody starts a launcher by hand.
    #[test]
    fn becomes_the_command() {
        if std::env::var_os(JOB_VARIABLE).is_some() {
            launch();
            std::process::exit(1);
        }
    }

    #[test]
    fn a_command_that_cannot_run_is_told_with_its_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let job = |command: &str| Job {
            folder: folder.path().into(),
            command: vec![command.to_owned()],
            images: Vec::new(),
            environment: Vec::new(),
        };
        let refusal = launcher().start(&job("./missing"), "t").unwrap_err();
        assert_eq!(refusal.code, "start_failed");
        assert!(refusal.message.contains("missing") && refusal.remedy.is_some(), "{refusal}");
        let missing = Job { images: vec![folder.path().join("none.raw")], ..job("sleep") };
        assert_eq!(launcher().start(&missing, "t").unwrap_err().code, "image_unusable");
    }

    #[test]
    fn a_locked_image_starts_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("disk.raw");
        std::fs::write(&image, [0; 512]).unwrap();
        let _held = lock(&image, false).unwrap();
        let job = Job {
            folder: folder.path().into(),
            command: vec!["true".to_owned()],
            images: vec![image.clone()],
            environment: Vec::new(),
        };
        let refusal = launcher().start(&job, "t").unwrap_err();
        assert_eq!(refusal.code, "image_locked");
        assert!(refusal.message.contains("disk.raw"), "{refusal}");
    }
}
