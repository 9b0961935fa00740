//! Two paired clusters, a VM with a guest that writes over two disks, and how to look at a failover of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use landfall_kit::process::{Cluster, Failure, Node, NodeSpec, VmFolder, eventually, pair};
use serde_json::Value;

/// For what includes an election, a node's loss or an initial copy on a machine with other work.
pub const LONG: Duration = Duration::from_secs(120);

/// The workload's name.
pub const WORK: &str = "VirtualMachine_Workload";
/// The program under test.
pub const LANDFALL: &str = env!("CARGO_BIN_EXE_landfall");

pub const R_CAP: &str = "r-broker-cap.contoso.test";
pub const P_CAP: &str = "p-broker-cap.contoso.test";
/// Where the guest writes on each disk, and how much of it, over and over.
const GUEST_OFFSET: &str = "1048576";
const GUEST_LENGTH: &str = "131072";
/// The bytes of all disks.
pub const DISKS_BYTES: u64 = (20 << 20) + 3 * 512;
/// The disks and their sizes.
const DISKS: [(&str, u64); 2] = [("vda", 16 << 20), ("vdb", (4 << 20) + 3 * 512)];

/// A node whose change sets are due at once.
pub fn quick(node: &str) -> NodeSpec {
    let mut spec = NodeSpec::new(node);
    spec.config.insert("testing".to_owned(), toml::toml! { interval_ms = 300 }.into());
    spec
}

/// A VM with two disks, over which its guest writes; `script` is what a shell does before.
pub fn workload(script: &str) -> VmFolder {
    let vm =
        DISKS.iter().zip(1..).fold(VmFolder::new(WORK), |vm, ((target, bytes), seed)| vm.disk(target, *bytes, seed));
    let mut guest = vec![LANDFALL, "guest", "write", "--offset", GUEST_OFFSET, "--length", GUEST_LENGTH];
    guest.extend(["--disk", "vda.raw", "--disk", "vdb.raw"]);
    let started = format!("{script}; exec \"$@\"");
    let command = match script {
        "" => guest,
        _ => [vec!["/bin/sh", "-c", &started, "sh"], guest].concat(),
    };
    vm.adapter("eth0", "synthetic", "52:54:00:aa:bb:01").command(command)
}

/// The replica's cluster and the primary's, paired; the VM runs at p1 and is not replicated.
pub fn paired(r_nodes: &[&str], vm: &VmFolder) -> (Cluster, Cluster, PathBuf) {
    let r = Cluster::of(LANDFALL, "Cluster-R", R_CAP);
    let r = r_nodes.iter().fold(r, |cluster, node| cluster.spec(quick(node))).start();
    let p = Cluster::of(LANDFALL, "Cluster-P", P_CAP).spec(quick("p1")).start();
    pair(&p, &r);
    r.first().cli(["settings", "set", "replication_enabled=true"]);
    let folder = vm.create_in(&p.first().vm_path()).expect("the VM path can be written");
    runs(p.first());
    (r, p, folder)
}

/// Replicates the VM to the other cluster.
pub fn enable(p: &Cluster, more: &[&str]) {
    let arguments = ["vm", "enable", WORK, "--to", R_CAP, "--frequency", "30", "--recovery-points", "4"];
    p.first().cli(arguments.into_iter().chain(more.iter().copied()).collect::<Vec<_>>());
}

/// As [`paired`]; the VM has been replicated for a while.
pub fn replicated(r_nodes: &[&str]) -> (Cluster, Cluster, PathBuf) {
    replicated_vm(r_nodes, &workload(""))
}

/// The same with a VM of one's own.
pub fn replicated_vm(r_nodes: &[&str], vm: &VmFolder) -> (Cluster, Cluster, PathBuf) {
    let (r, p, folder) = paired(r_nodes, vm);
    enable(&p, &["--timeout", "55s"]);
    goes_on(r.first());
    (r, p, folder)
}

/// Waits until the workload runs at some node of `node`'s cluster.
pub fn runs(node: &Node) {
    eventually(LONG, &format!("{WORK} to run where {} is", node.name()), || {
        let shown = node.try_cli(["vm", "show", WORK]).map_err(|failure| failure.to_string())?;
        if shown["vm_state"] == "running" { Ok(()) } else { Err(shown.to_string()) }
    });
}

/// How many guests run at a node.
pub fn guests(node: &Node) -> usize {
    node.family().with_argument("write").len()
}

/// The points that can be restored, oldest first.
pub fn points(node: &Node) -> Result<Vec<u64>, String> {
    let points = node.try_cli(["point", "list", WORK]).map_err(|failure| failure.to_string())?;
    let listed = points.as_array().into_iter().flatten().filter(|point| point["state"] == "listed");
    Ok(listed.filter_map(|point| point["point"].as_u64()).collect())
}

/// Waits for a point that is newer than every one that is listed now, twice over: the first may have been on its way.
pub fn goes_on(node: &Node) -> u64 {
    let newest = || points(node)?.last().copied().ok_or_else(|| "no point".to_owned());
    let mut last = eventually(LONG, "a point", newest);
    for _ in 0..2 {
        last = eventually(LONG, &format!("a point after {last}"), || match newest() {
            Ok(point) if point > last => Ok(point),
            other => Err(format!("{other:?}")),
        });
    }
    last
}

/// `failover status` at a node.
pub fn status(node: &Node) -> Value {
    node.cli(["failover", "status", WORK])
}

/// Waits until a failover is at `step`, as `node` sees it.
pub fn at_step(node: &Node, step: &str) -> Value {
    eventually(LONG, &format!("the failover at {} to be {step}", node.name()), || {
        let status = node.try_cli(["failover", "status", WORK]).map_err(|failure| failure.to_string())?;
        if status["step"] == step { Ok(status) } else { Err(status.to_string()) }
    })
}

/// A verb of failover.
pub fn failover<'a>(node: &Node, verb: &[&'a str]) -> Result<Value, Failure> {
    node.try_cli(["failover"].into_iter().chain(verb.iter().copied()).collect::<Vec<&'a str>>())
}

/// Makes the call, which must be refused for safety with this word and a remedy.
#[track_caller]
pub fn refused(node: &Node, verb: &[&str], code: &str) {
    let failure = failover(node, verb).expect_err("a refusal");
    assert_eq!((failure.exit, failure.code.as_str()), (3, code), "{failure}");
    assert!(failure.remedy.is_some(), "{failure}");
}

/// The records on the disks in a folder; panics where they are no instant.
pub fn records(node: &Node, folder: &Path) -> u64 {
    let disks: Vec<String> =
        DISKS.iter().map(|(target, _)| folder.join(format!("{target}.raw")).display().to_string()).collect();
    let mut arguments = vec!["guest", "check", "--offset", GUEST_OFFSET, "--length", GUEST_LENGTH];
    disks.iter().for_each(|disk| arguments.extend(["--disk", disk]));
    let answer = node.call(arguments);
    assert_eq!(answer.code, Some(0), "{answer}");
    answer.stdout.trim().parse().expect("a number of records")
}

/// The records of a point, exported into a folder of the cluster's.
pub fn records_of_point(cluster: &Cluster, point: u64) -> u64 {
    let to = cluster.folder().join(format!("point-{point}"));
    cluster.first().cli(["point", "export", WORK, "--point", &point.to_string(), &to.display().to_string()]);
    records(cluster.first(), &to)
}

/// The images of the runs of a kind (`test` or `run`) in the replica's folder at a node.
pub fn run_images(node: &Node, kind: &str) -> Vec<PathBuf> {
    let replicas = std::fs::read_dir(node.storage_path()).into_iter().flatten().flatten();
    let folders = replicas.flat_map(|replica| std::fs::read_dir(replica.path()).into_iter().flatten().flatten());
    let named = folders.filter(|entry| entry.file_name().to_string_lossy().starts_with(&format!("{kind}-")));
    named.map(|entry| entry.path().join("images")).collect()
}

/// The node of a cluster that a failover names.
pub fn node_of<'a>(cluster: &'a Cluster, status: &Value) -> &'a Node {
    cluster.node(status["node"].as_str().expect("a node"))
}

/// Lets a cluster keep replicas of another one's VMs.
pub fn authorize(node: &Node, primary: &str) {
    node.cli(["settings", "set", "replication_enabled=true"]);
    node.cli(["authorization", "add", primary, "--storage", "default"]);
}

/// Waits until the VM has this part at a node's cluster.
pub fn is(node: &Node, role: &str) -> Value {
    eventually(LONG, &format!("the VM to be a {role} at {}", node.name()), || {
        let shown = node.try_cli(["vm", "show", WORK]).map_err(|failure| failure.to_string())?;
        if shown["role"] == role { Ok(shown) } else { Err(shown.to_string()) }
    })
}

/// Gives the command again until it is taken: an agent that was just killed answers nothing, and one that has taken it before
/// says so.
pub fn insist(node: &Node, verb: &[&str], taken: &[&str]) {
    eventually(LONG, &format!("{} to take {verb:?}", node.name()), || match failover(node, verb) {
        Ok(_) => Ok(()),
        Err(failure) if taken.contains(&failure.code.as_str()) => Ok(()),
        Err(failure) => Err(failure.to_string()),
    });
}

/// Waits until both nodes of the cluster of `node` have every acknowledged byte.
pub fn twice(node: &Node) {
    eventually(LONG, "two copies", || {
        let shown = node.try_cli(["vm", "show", WORK]).map_err(|failure| failure.to_string())?;
        if shown["in_sync"].as_array().map(Vec::len) == Some(2) { Ok(()) } else { Err(shown.to_string()) }
    });
}
