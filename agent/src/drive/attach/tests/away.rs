//! The VM service as a process of its own: started where none answers, killed, started again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::*;
use crate::config::NodeConfig;
use crate::drive::attach::process::run_with;
use crate::drive::attach::{Remote, Spawn, Spawned};
use crate::drive::directory::service_socket;
use crate::drive::directory::tests::{
    alive_in, content, guest_command, options, progress, rerun, running, until, vm_id, write_vm,
};
use crate::vm_service::{FreezeMethod, VmState};

const SERVICE_VARIABLE: &str = "LANDFALL_TEST_SERVICE";

/// Runs as the VM service of the node's file that the variable names; passes otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn service_process() {
    let Ok(file) = std::env::var(SERVICE_VARIABLE) else { return };
    let config = NodeConfig::load(Path::new(&file)).unwrap();
    let path = config.vm_service.clone().unwrap().path;
    let options = options(config.node.as_str(), &path);
    if let Err(refusal) = run_with(&config, options, std::future::pending()).await {
        println!("refused: {refusal}");
        std::process::exit(1);
    }
}

struct Bench {
    _root: tempfile::TempDir,
    path: PathBuf,
    folder: PathBuf,
    spawn: Spawn,
    remote: Remote,
}

impl Bench {
    fn new(node: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let (file, path) = (root.path().join("node.toml"), root.path().join("vms"));
        let text = format!(
            "node = \"{node}\"\ndata_dir = {:?}\nlisten = \"127.0.0.1:7443\"\nsocket = {:?}\n\
             [vm_service]\nkind = \"directory\"\npath = {path:?}\n",
            root.path().join("data"),
            root.path().join("agent.sock"),
        );
        std::fs::write(&file, text).unwrap();
        let command = rerun("drive::attach::tests::away::service_process", SERVICE_VARIABLE, file.to_str().unwrap());
        let spawn = Spawn {
            program: PathBuf::from(&command[0]),
            arguments: command[1..].iter().map(Into::into).collect(),
            path: path.clone(),
        };
        let folder = path.join("vm");
        let remote = Remote::new(service_socket(&path));
        Self { _root: root, path, folder, spawn, remote }
    }

    /// Starts the service; the process that then serves the path.
    async fn start(&self) -> i32 {
        assert!(matches!(self.spawn.ensure().await.unwrap(), Spawned::Started(_)));
        self.pid()
    }

    fn pid(&self) -> i32 {
        let lock = std::fs::read(self.path.join(".landfall/lock")).unwrap();
        serde_json::from_slice::<serde_json::Value>(&lock).unwrap()["pid"].as_i64().unwrap() as i32
    }

    async fn kill(&self) {
        let pid = self.pid();
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
        until("the service is dead", async || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            (stat.is_empty() || stat.contains(") Z ")).then_some(())
        })
        .await;
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // Whatever a failed test leaves running; by number, and only what this test started.
        let pids = alive_in(&self.folder).into_iter().chain([self.pid()]);
        for pid in pids.filter_map(Pid::from_raw) {
            _ = kill_process(pid, Signal::KILL);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_outlives_its_service_and_is_adopted_by_the_next() {
    let bench = Bench::new("p1");
    let first = bench.start().await;
    assert_eq!(bench.spawn.ensure().await.unwrap(), Spawned::Answers);
    write_vm(&bench.folder, 1, &guest_command());
    let before = running(&bench.remote, 1).await;
    progress(&bench.folder).await;
    let pids = alive_in(&bench.folder);
    bench.kill().await;
    progress(&bench.folder).await;
    assert_eq!(alive_in(&bench.folder), pids);
    // While nobody watches, the images stay locked.
    let image = std::fs::File::open(bench.folder.join("a.raw")).unwrap();
    rustix::fs::flock(&image, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap_err();
    assert_ne!(bench.start().await, first);
    let after = running(&bench.remote, 1).await;
    assert_ne!(after.run, before.run, "nobody watched in between");
    assert_eq!(alive_in(&bench.folder), pids);
    let frozen = bench.remote.freeze(vm_id(1), Duration::from_secs(60)).await.unwrap();
    assert_eq!(frozen.method, FreezeMethod::Stopped);
    let still = content(&bench.folder);
    assert!((0..20).all(|_| content(&bench.folder) == still));
    assert!(bench.remote.thaw(frozen.freeze).await.unwrap().held);
    bench.remote.stop(vm_id(1)).await.unwrap();
    assert_eq!(alive_in(&bench.folder), Vec::<i32>::new());
    assert_eq!(bench.remote.list().await.unwrap()[0].state, VmState::Stopped);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_dies_in_a_freeze_leaves_a_vm_that_its_successor_lets_go_on() {
    let bench = Bench::new("p1");
    bench.start().await;
    write_vm(&bench.folder, 1, &guest_command());
    running(&bench.remote, 1).await;
    progress(&bench.folder).await;
    let pids = alive_in(&bench.folder);
    let frozen = bench.remote.freeze(vm_id(1), Duration::from_secs(600)).await.unwrap();
    bench.kill().await;
    let still = content(&bench.folder);
    assert!((0..20).all(|_| content(&bench.folder) == still));
    assert_eq!(alive_in(&bench.folder), pids, "the hang-up of its session must not reach it");
    bench.start().await;
    progress(&bench.folder).await;
    assert!(!bench.remote.thaw(frozen.freeze).await.unwrap().held, "that freeze is not this life's");
    bench.remote.stop(vm_id(1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_went_away_while_nobody_watched_is_a_vm_that_ends() {
    let bench = Bench::new("p1");
    bench.start().await;
    write_vm(&bench.folder, 1, &guest_command());
    running(&bench.remote, 1).await;
    progress(&bench.folder).await;
    bench.kill().await;
    let elsewhere = bench.path.parent().unwrap().join("elsewhere");
    std::fs::rename(&bench.folder, &elsewhere).unwrap();
    progress(&elsewhere).await;
    bench.start().await;
    until("its processes end", async || alive_in(&elsewhere).is_empty().then_some(())).await;
    assert!(bench.remote.list().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_cannot_start_says_why() {
    let bench = Bench::new("p1");
    bench.start().await;
    let owner = bench.pid();
    let other = Bench::new("p2");
    std::fs::create_dir_all(other.path.join(".landfall")).unwrap();
    let (theirs, ours) = (bench.path.join(".landfall/lock"), other.path.join(".landfall/lock"));
    std::fs::hard_link(theirs, ours).unwrap();
    let refusal = other.spawn.ensure().await.unwrap_err();
    assert_eq!(refusal.code, "vm_service_unreachable");
    assert!(refusal.message.contains("node 'p1'") && refusal.message.contains(&owner.to_string()), "{refusal}");
}
