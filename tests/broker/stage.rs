//! What the stories are played on: clusters that are paired, VMs with a guest that writes, and how to look at them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use landfall_kit::process::{Cluster, ClusterBuilder, Failure, Node, NodeSpec, VmFolder, eventually, pair};
use serde_json::Value;

/// For what is a matter of a moment: a report, an applied entry, a change set of a few kilobytes. On a machine with ten times
/// the work that it has processors for a moment is long; nothing is waited for longer than it takes.
pub const SOON: Duration = Duration::from_secs(60);
/// For what includes an election, a node's loss or an initial copy on such a machine: they are bound by half of that, and a
/// node that did not answer in time is asked again.
pub const LONG: Duration = Duration::from_secs(120);

/// How much later than designed something may be seen on a machine with other work.
pub const SLACK: Duration = Duration::from_secs(5);

/// The CAP of the replicas.
pub const R_CAP: &str = "r-broker-cap.contoso.test";
/// The primaries' CAP.
pub const P_CAP: &str = "p-broker-cap.contoso.test";

/// The workload's name.
pub const WORK: &str = "VirtualMachine_Workload";

/// Change sets are due this often.
const INTERVAL_MS: i64 = 300;
/// Where the guest writes: in the hole that the harness leaves in the second MiB of every disk.
const GUEST_OFFSET: u64 = 1 << 20;
/// How much of each disk it writes, over and over.
const GUEST_LENGTH: u64 = 128 << 10;
/// The disks' sizes. The second does not end with a block of any size that is used.
pub const DISKS: [(&str, u64); 2] = [("vda", 64 << 20), ("vdb", (4 << 20) + 3 * 512)];

/// The program under test.
pub const LANDFALL: &str = env!("CARGO_BIN_EXE_landfall");

/// A cluster that is to keep replicas.
pub fn replicas() -> ClusterBuilder {
    Cluster::of(LANDFALL, "Cluster-R", R_CAP)
}

/// A cluster that is to keep primaries, with change sets that are due at once.
pub fn primaries(nodes: &[&str]) -> ClusterBuilder {
    named_primaries("Cluster-P", P_CAP, nodes)
}

/// As [`primaries`], under another name.
pub fn named_primaries(name: &str, cap: &str, nodes: &[&str]) -> ClusterBuilder {
    let cluster = Cluster::of(LANDFALL, name, cap);
    nodes.iter().fold(cluster, |cluster, node| cluster.spec(quick(node)))
}

/// A node whose change sets are due at once.
pub fn quick(name: &str) -> NodeSpec {
    testing(name, "interval_ms", INTERVAL_MS.into())
}

/// A node with one key in `[testing]`.
pub fn testing(name: &str, key: &str, value: toml::Value) -> NodeSpec {
    let mut spec = NodeSpec::new(name);
    let mut table = toml::Table::new();
    table.insert(key.to_owned(), value);
    spec.config.insert("testing".to_owned(), table.into());
    spec
}

/// Switches replication on in `r`, pairs, and authorizes. The stories here are those of one copy; `tests/copies` tells
/// what two are for.
pub fn join_up(p: &Cluster, r: &Cluster) {
    pair(p, r);
    r.first().cli(["settings", "set", "replication_enabled=true", "copies=1"]);
}

/// The workload at a cluster of one, and its replica at another, with its first point: the primaries, and the replicas.
pub fn one_to_one() -> (Cluster, Cluster) {
    let r = replicas().node("r1").start();
    let p = primaries(&["p1"]).start();
    join_up(&p, &r);
    put(&workload(WORK), p.first());
    enable(p.first(), WORK);
    (p, r)
}

/// A VM with two disks and a guest that writes records over both of them.
pub fn workload(name: &str) -> VmFolder {
    let vm =
        DISKS.iter().zip(1..).fold(VmFolder::new(name), |vm, ((target, bytes), seed)| vm.disk(target, *bytes, seed));
    let (offset, length) = (GUEST_OFFSET.to_string(), GUEST_LENGTH.to_string());
    let mut command = vec![LANDFALL, "guest", "write", "--offset", &offset, "--length", &length];
    command.extend(["--disk", "vda.raw", "--disk", "vdb.raw"]);
    vm.adapter("eth0", "synthetic", "52:54:00:aa:bb:01").command(command)
}

/// Puts `vm` on `node` and waits until it runs there.
pub fn put(vm: &VmFolder, node: &Node) -> PathBuf {
    let folder = vm.create_in(&node.vm_path()).expect("the VM path can be written");
    runs_at(node, vm.name());
    folder
}

/// Waits until the VM service of some node of `node`'s cluster has found `vm` and looked at its images.
pub fn found(node: &Node, vm: &str) {
    eventually(SOON, &format!("{vm} to be found"), || {
        let shown = node.try_cli(["vm", "show", vm]).map_err(|failure| failure.to_string())?;
        if shown["fault"].is_null() { Ok(()) } else { Err(shown.to_string()) }
    });
}

/// What doctor at `node` finds under `codes`.
pub fn findings(node: &Node, codes: &[&str]) -> Result<Vec<Value>, String> {
    let answer = node.call(["doctor", "-o", "json"]);
    // It ends with 1 where something is critical.
    let report: Value = serde_json::from_str(&answer.stdout).map_err(|_| answer.to_string())?;
    let all = report["findings"].as_array().into_iter().flatten();
    Ok(all.filter(|finding| codes.contains(&finding["code"].as_str().unwrap_or_default())).cloned().collect())
}

/// Waits until `vm` is listed at `node` and runs.
pub fn runs_at(node: &Node, vm: &str) {
    eventually(SOON, &format!("{vm} to run at {}", node.name()), || {
        let shown = node.try_cli(["vm", "show", vm]).map_err(|failure| failure.to_string())?;
        if shown["vm_state"] == "running" && shown["fault"].is_null() { Ok(()) } else { Err(shown.to_string()) }
    });
}

/// Replicates `vm` from `p` to `r`, with four older points, and waits for the first point.
pub fn enable(p: &Node, vm: &str) -> Value {
    p.cli(["vm", "enable", vm, "--to", R_CAP, "--frequency", "30", "--recovery-points", "4", "--timeout", "120s"])
}

/// The number of the newest point that `node`'s cluster lists for `vm` and can restore.
pub fn newest(node: &Node, vm: &str) -> Result<u64, String> {
    let points = node.try_cli(["point", "list", vm]).map_err(|failure| failure.to_string())?;
    let listed = points.as_array().into_iter().flatten().filter(|point| point["state"] == "listed");
    let newest = listed.filter_map(|point| point["point"].as_u64()).max();
    newest.ok_or_else(|| format!("no listed point: {points}"))
}

/// Waits for a point that is newer than every one that is listed now, twice over: the first may have been on its way.
pub fn goes_on(node: &Node, vm: &str) -> u64 {
    let mut last = eventually(LONG, &format!("a point of {vm}"), || newest(node, vm));
    for _ in 0..2 {
        last = eventually(LONG, &format!("a point of {vm} after {last}"), || match newest(node, vm) {
            Ok(point) if point > last => Ok(point),
            other => Err(format!("{other:?}")),
        });
    }
    last
}

/// Where `node` says that the replica is received.
pub fn holder(node: &Node, vm: &str) -> String {
    text(&node.cli(["vm", "locate", vm])["node"])
}

/// Exports a point (the newest where none is given) and returns the folder's path.
pub fn export(node: &Node, vm: &str, point: Option<u64>, to: &Path) -> Result<Value, Failure> {
    let (to, point) = (to.display().to_string(), point.map(|point| point.to_string()));
    let mut arguments = vec!["point", "export", vm, &to];
    if let Some(point) = &point {
        arguments.extend(["--point", point]);
    }
    node.try_cli(arguments)
}

/// How many records the guest's disks in `folder` hold; panics where they are no instant.
pub fn check(node: &Node, folder: &Path) -> u64 {
    let disks: Vec<String> =
        DISKS.iter().map(|(target, _)| folder.join(format!("{target}.raw")).display().to_string()).collect();
    let (offset, length) = (GUEST_OFFSET.to_string(), GUEST_LENGTH.to_string());
    let mut arguments = vec!["guest", "check", "--offset", &offset, "--length", &length];
    disks.iter().for_each(|disk| arguments.extend(["--disk", disk]));
    let answer = node.call(arguments);
    assert_eq!(answer.code, Some(0), "{answer}");
    answer.stdout.trim().parse().expect("a number of records")
}

/// The BLAKE3 of every disk in `folder`.
pub fn hashes(folder: &Path) -> BTreeMap<&'static str, String> {
    let hash = |target: &str| {
        let bytes = fs::read(folder.join(format!("{target}.raw"))).expect("a disk");
        blake3::hash(&bytes).to_string()
    };
    DISKS.iter().map(|(target, _)| (*target, hash(target))).collect()
}

/// The entry of `node` in a list of nodes.
pub fn entry(list: &Value, node: &str) -> Value {
    let found = list.as_array().into_iter().flatten().find(|entry| entry["node"] == node);
    found.cloned().unwrap_or(Value::Null)
}

/// A field's text.
#[track_caller]
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

/// A field's number.
#[track_caller]
pub fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("no number: {value}"))
}

/// Waits until `node` has a quorum and an owner, and returns the owner.
pub fn owner(node: &Node) -> String {
    eventually(LONG, &format!("{} to know an owner", node.name()), || {
        let status = node.try_cli(["cluster", "status"]).map_err(|failure| failure.to_string())?;
        match (status["quorate"].as_bool(), status["owner"].as_str()) {
            (Some(true), Some(owner)) => Ok(owner.to_owned()),
            _ => Err(status.to_string()),
        }
    })
}

/// Waits until `node`'s VM service has `revision` applied, as its own file says.
pub fn service_has(node: &Node, revision: u64) {
    let file = node.vm_path().join(".landfall").join("settings.json");
    eventually(SOON, &format!("the VM service of {} to have revision {revision}", node.name()), || {
        let text = fs::read_to_string(&file).map_err(|error| error.to_string())?;
        let found: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        if found["revision"].as_u64() == Some(revision) { Ok(()) } else { Err(found["revision"].to_string()) }
    });
}

/// Flips a bit of `vda` in a file of the replica, where the guest never writes.
pub fn flip(node: &Node) {
    flip_at_once(&[node]);
}

/// Flips the same bit in the copies on all of `nodes`, whose agents stand still meanwhile: none can repair itself out of
/// another that is whole yet.
pub fn flip_at_once(nodes: &[&Node]) {
    let shown = nodes[0].cli(["vm", "show", WORK]);
    let folder = |node: &Node| node.storage_path().join(text(&shown["uuid"]));
    // The harness fills the disk but for its second MiB.
    let to = nodes[0].folder().join("before-the-flip");
    let _ = fs::remove_dir_all(&to);
    export(nodes[0], WORK, None, &to).unwrap();
    let content = fs::read(to.join("vda.raw")).unwrap()[5000..5064].to_vec();
    // A change set that was on its way may still be merged into its base, which takes another name then.
    eventually(SOON, "the bases to be there", || {
        let places: Vec<Place> =
            nodes.iter().map(|node| Place::of(&folder(node), &content)).collect::<Result<_, _>>()?;
        nodes.iter().for_each(|node| node.stop_agent());
        let flipped = match places.iter().all(|place| place.still_has(&content)) {
            true => places.iter().try_for_each(|place| place.write(content[0] ^ 1)),
            false => Err(std::io::ErrorKind::NotFound.into()),
        };
        nodes.iter().for_each(|node| node.continue_agent());
        flipped
    });
}

/// Where some content of `vda` is in a replica's base.
struct Place {
    base: PathBuf,
    at: u64,
}

impl Place {
    fn of(folder: &Path, content: &[u8]) -> std::io::Result<Self> {
        let mut files = Vec::new();
        for entry in fs::read_dir(folder)? {
            let file = entry?.path();
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with(DISKS[0].0) && name.ends_with(".qcow2") {
                files.push(file);
            }
        }
        files.sort();
        let base = files.first().cloned().ok_or(std::io::ErrorKind::NotFound)?;
        let bytes = fs::read(&base)?;
        let at = bytes.windows(content.len()).position(|window| window == content);
        Ok(Self { base, at: at.ok_or(std::io::ErrorKind::NotFound)? as u64 })
    }

    fn still_has(&self, content: &[u8]) -> bool {
        let mut bytes = vec![0; content.len()];
        let read = fs::File::open(&self.base).and_then(|file| file.read_exact_at(&mut bytes, self.at));
        read.is_ok() && bytes == content
    }

    fn write(&self, byte: u8) -> std::io::Result<()> {
        let mut mode = fs::metadata(&self.base)?.permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o644);
        fs::set_permissions(&self.base, mode)?;
        fs::File::options().write(true).open(&self.base)?.write_all_at(&[byte], self.at)
    }
}
