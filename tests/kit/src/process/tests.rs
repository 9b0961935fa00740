//! The harness itself, over a stand-in for the binary: a shell script that keeps to the same command line.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::*;
use crate::power::{rerun, role};

const SOON: Duration = Duration::from_secs(10);

/// Answers as documented and writes every call, with the node it was made at, to `calls` beside itself. As an agent it
/// leaves a "VM service" behind that has no parent, no group and no terminal in common with it.
const STAND_IN: &str = r#"#!/bin/sh
here=$(dirname "$0")
node=$(basename "$(dirname "$LANDFALL_SOCKET")")
case "$1 $2" in
  "agent --config")
    echo "agent of $node starts"
    (setsid sleep 3600 &)
    LANDFALL_KIT_ROLE="$LANDFALL_SOCKET" exec @TEST@ process::tests::agent_stand_in --exact --nocapture ;;
  "token create") echo '{"token": "TOKEN", "expires_at": "2026-01-01T00:00:00Z"}' ;;
  "peer invite") echo '{"code": "CODE", "expires_at": "2026-01-01T00:00:00Z"}' ;;
  "cluster status") echo '{"quorate": true, "members": [{"node": "r1", "role": "voter"}, {"node": "r2", "role": "voter"}, {"node": "rw", "role": "witness"}, {"node": "p1", "role": "voter"}]}' ;;
  "node remove")
    echo "talk" >&2
    echo '{"error": {"code": "not_found", "message": "there is no node", "field": "node", "remedy": null}}' >&2
    exit 4 ;;
  "event tail") sleep 3600 ;;
esac
echo "$node: $*" >>"$here/calls"
"#;

struct Binary(tempfile::TempDir);

impl Binary {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let test = std::env::current_exe().unwrap();
        let file = folder.path().join("landfall");
        // Written by another process: a program that this one has open for writing while a test beside it forks could
        // not be executed.
        let mut write = Command::new("/bin/sh");
        write.args(["-c", "printf %s \"$1\" >\"$0\" && chmod 755 \"$0\""]).arg(&file);
        assert!(write.arg(STAND_IN.replace("@TEST@", &test.display().to_string())).status().unwrap().success());
        Self(folder)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("landfall")
    }

    fn calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.0.path().join("calls")).unwrap_or_default();
        calls.lines().filter(|call| !call.contains("cluster status")).map(str::to_owned).collect()
    }

    fn one_node(&self) -> Cluster {
        let cluster = Cluster::of(self.path(), "Cluster-R", "r.test").node("r1").create();
        cluster.start_agents();
        cluster
    }
}

/// Not a test: what the stand-in's agent does, which a shell cannot. It listens until it is told to end.
#[test]
fn agent_stand_in() {
    let Some(socket) = role() else { return };
    fs::remove_file(&socket).ok();
    let listener = UnixListener::bind(socket).unwrap();
    for _ in listener.incoming() {}
}

fn lives(id: u32) -> bool {
    // A dead process that waits to be collected has no arguments left.
    fs::read(format!("/proc/{id}/cmdline")).is_ok_and(|arguments| !arguments.is_empty())
}

#[test]
fn two_clusters_are_formed_and_paired_by_the_lines_of_the_quick_start() {
    let (r_binary, p_binary) = (Binary::new(), Binary::new());
    let r = Cluster::of(r_binary.path(), "Cluster-R", "r.test").node("r1").node("r2").witness("rw").start();
    let p = Cluster::of(p_binary.path(), "Cluster-P", "p.test").node("p1").start();
    pair(&p, &r);
    assert_eq!(
        r_binary.calls(),
        [
            "r1: cluster init --name Cluster-R --cap r.test -o json",
            "r1: token create -o json",
            "r2: cluster join TOKEN -o json",
            "r1: token create --witness -o json",
            "rw: cluster join TOKEN -o json",
            "r1: peer invite -o json",
            "r1: authorization add p.test --storage default -o json",
        ]
    );
    assert_eq!(
        p_binary.calls(),
        ["p1: cluster init --name Cluster-P --cap p.test -o json", "p1: peer accept CODE -o json"]
    );
}

#[test]
fn a_failure_is_taken_apart_and_a_call_that_hangs_is_ended() {
    let binary = Binary::new();
    let cluster = binary.one_node();
    let failure = cluster.first().try_cli(["node", "remove", "x"]).unwrap_err();
    assert_eq!((failure.exit, failure.code.as_str(), failure.field.as_deref()), (4, "not_found", Some("node")));
    let begun = Instant::now();
    let answer = cluster.first().call_within(Duration::from_millis(200), ["event", "tail"]);
    assert_eq!(answer.code, None);
    assert!(begun.elapsed() < SOON);
}

#[test]
fn an_agent_is_killed_stopped_and_started_again_at_its_own_ports_while_the_vm_service_goes_on() {
    let binary = Binary::new();
    let cluster = binary.one_node();
    let node = cluster.first();
    let (address, agent) = (node.address(), node.agent_id().unwrap());
    let service: Vec<u32> = node.family().members().into_iter().filter(|&id| id != agent).collect();
    assert_eq!(service.len(), 1, "one VM service beside the agent");
    node.stop_agent();
    let state = || fs::read_to_string(format!("/proc/{agent}/stat")).unwrap().split(' ').nth(2).unwrap().to_owned();
    eventually(SOON, "the agent to stand still", || state() == "T");
    node.continue_agent();
    eventually(SOON, "the agent to go on", || state() != "T");
    node.kill_agent();
    assert!(lives(service[0]) && !lives(agent));
    node.restart_agent();
    assert_eq!(node.address(), address);
    assert_ne!(node.agent_id(), Some(agent));
    assert_eq!(node.log().matches("agent of r1 starts").count(), 2);
    node.lose();
    assert_eq!(node.family().members(), Vec::<u32>::new());
    assert!(!lives(service[0]));
}

#[test]
fn dropping_a_cluster_leaves_no_process_and_no_file() {
    let binary = Binary::new();
    let cluster = binary.one_node();
    let members = cluster.first().family().members();
    assert!(members.len() >= 2, "{members:?}");
    let folder = cluster.folder().to_owned();
    drop(cluster);
    assert!(members.into_iter().all(|id| !lives(id)));
    assert!(!folder.exists());
}

#[test]
fn a_test_that_is_killed_leaves_no_process() {
    if let Some(file) = role() {
        let binary = Binary::new();
        let cluster = binary.one_node();
        let members = cluster.first().family().members();
        let text = members.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
        fs::write(Path::new(&file).with_extension("new"), text).unwrap();
        fs::rename(Path::new(&file).with_extension("new"), &file).unwrap();
        loop {
            std::thread::park();
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("members");
    let name = "process::tests::a_test_that_is_killed_leaves_no_process";
    let mut test: Command = rerun(name, &file.display().to_string());
    let mut test = test.env("TMPDIR", folder.path()).spawn().unwrap();
    let members = eventually(SOON, "the inner test to start its agent", || fs::read_to_string(&file));
    test.kill().unwrap();
    test.wait().unwrap();
    let members: Vec<u32> = members.split(' ').map(|id| id.parse().unwrap()).collect();
    assert!(members.len() >= 2);
    eventually(SOON, "the guardian to clean up", || members.iter().all(|&id| !lives(id)));
}

#[test]
fn no_two_pairs_share_a_port_and_a_dropped_pair_is_free_again() {
    let pairs: Vec<PortPair> = (0..50).map(|_| PortPair::take().unwrap()).collect();
    let ports: BTreeSet<u16> =
        pairs.iter().flat_map(|pair| [pair.control().port(), pair.control().port() + 1]).collect();
    assert_eq!(ports.len(), 100);
    let mut released = pairs.into_iter().next().unwrap();
    released.release();
    let first = released.control();
    assert!((0..50).all(|_| PortPair::take().unwrap().control() != first), "a released pair is still its owner's");
}

#[test]
fn a_vm_folder_is_what_its_document_says_and_its_guest_writes() {
    let folder = tempfile::tempdir().unwrap();
    let vm = VmFolder::new("VM_Workload").disk("vda", 5 << 20, 1).adapter("eth0", "synthetic", "52:54:00:aa:bb:01");
    let vm = vm.writing(5);
    let made = vm.create_in(folder.path()).unwrap();
    let document: toml::Table = fs::read_to_string(made.join("vm.toml")).unwrap().parse().unwrap();
    assert_eq!(document["uuid"].as_str(), Some(vm.uuid().to_string().as_str()));
    assert_eq!(document["disk"][0]["path"].as_str(), Some("vda.raw"));
    assert_eq!(document["adapter"][0]["mac"].as_str(), Some("52:54:00:aa:bb:01"));
    let image = made.join("vda.raw");
    let before = fs::read(&image).unwrap();
    assert_eq!(before.len(), 5 << 20);
    assert!(before[..1 << 20].iter().any(|&byte| byte != 0) && before[1 << 20..2 << 20].iter().all(|&byte| byte == 0));
    let command: Vec<&str> =
        document["command"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    let mut guest = Command::new(command[0]).args(&command[1..]).current_dir(&made).spawn().unwrap();
    eventually(SOON, "the guest to write", || fs::read(&image).unwrap() != before);
    guest.kill().unwrap();
    guest.wait().unwrap();
    assert_eq!(fs::metadata(&image).unwrap().len(), 5 << 20, "the guest keeps the image's size");
}

#[test]
#[should_panic(expected = "still waiting for rain: nothing yet")]
fn waiting_ends_at_its_deadline_with_what_was_waited_for() {
    eventually(Duration::from_millis(30), "rain", || None::<()>);
}
