//! What the rows are measured on: a cluster of three that keeps replicas, one that keeps primaries, and a client.

use std::cell::OnceCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::Method;
use landfall_agent::cli::client::{Answer, Client, Patience};
use landfall_kit::process::{Cluster, Node, NodeSpec, VmFolder, eventually, pair};
use landfall_proto::Refusal;
use serde_json::Value;
use tokio::runtime::Runtime;

use super::asker::Asker;

/// The program that is measured.
pub const LANDFALL: &str = env!("CARGO_BIN_EXE_landfall");
/// The CAP that the replicas are behind.
pub const R_CAP: &str = "r-broker-cap.contoso.test";
const P_CAP: &str = "p-broker-cap.contoso.test";
/// For what includes an election, a restart or an initial copy on a machine with other work.
pub const LONG: Duration = Duration::from_secs(120);
/// How long a call with a wait waits, in seconds.
const WAIT_SECONDS: u64 = 60;
/// Change sets of p1 are due this often, and of p2, whose images take longer to scan.
const QUICK_MS: i64 = 300;
const IMAGES_MS: i64 = 1500;
/// What senders tell of each cycle.
const SENDER_LOG: &str = "info,openraft=off,chitchat=warn,quinn=warn,quinn_proto=warn,rustls=warn,\
                          landfall_agent::drive::send=debug";

/// The clusters, formed and paired.
pub struct Stage {
    /// Keeps replicas: r1, r2 and r3.
    pub r: Cluster,
    /// Keeps primaries: p1 for small VMs that change, p2 for images.
    pub p: Cluster,
    /// Asks R's CAP as the nodes of a third cluster.
    pub asker: Asker,
    /// Where the clients' side runs.
    pub runtime: Runtime,
}

/// The stage, set at the first call.
pub fn of(stage: &OnceCell<Stage>) -> &Stage {
    stage.get_or_init(Stage::set)
}

impl Stage {
    fn set() -> Self {
        let r = Cluster::of(LANDFALL, "Cluster-R", R_CAP).node("r1").node("r2").node("r3").start();
        let p = Cluster::of(LANDFALL, "Cluster-P", P_CAP);
        let p = p.spec(primaries("p1", QUICK_MS)).spec(primaries("p2", IMAGES_MS)).start();
        pair(&p, &r);
        // One copy, but where two are what is measured.
        r.first().cli(["settings", "set", "replication_enabled=true", "copies=1", "--wait"]);
        let runtime = Runtime::new().expect("a runtime");
        let asker = runtime.block_on(Asker::pair(&invitation(&r)));
        r.first().cli(["authorization", "add", asker.cap().as_str(), "--storage", "default"]);
        Self { r, p, asker, runtime }
    }

    /// The owner of R's CAP.
    pub fn owner(&self) -> &Node {
        let owner = eventually(LONG, "an owner of R", || {
            self.r.nodes().iter().find_map(|node| self.r.owner_seen_by(node.name()))
        });
        self.r.node(&owner)
    }

    /// Starts what does not run of R, and waits until every node is up and has a running VM service.
    pub fn whole(&self) {
        self.r.start_agents();
        self.r.wait_formed();
        eventually(LONG, "all of R to be up", || {
            let owner = self.r.owner_seen_by("r1").ok_or("no owner")?;
            let list = self.r.node(&owner).try_cli(["node", "list"]).map_err(|failure| failure.to_string())?;
            let nodes = list.as_array().into_iter().flatten();
            let up = nodes.filter(|node| node["state"] == "up" && node["vm_service"] == "running").count();
            if up == self.r.nodes().len() { Ok(()) } else { Err(list.to_string()) }
        });
    }

    /// Asks `node` over its socket.
    pub fn ask(&self, node: &Node, method: Method, path: &str, body: Option<&Value>) -> Result<Answer, Refusal> {
        let client = Client::new(node.socket());
        self.runtime.block_on(client.send(method, path, body, Patience::Waiting(Duration::from_secs(WAIT_SECONDS))))
    }

    /// Puts a VM with one disk that holds `image`'s bytes on p2, and waits until it is found.
    pub fn put_image(&self, name: &str, image: &crate::floor::image::Image) -> Placed {
        let node = self.p.node("p2");
        let disk = put(node, name, |disk| fs::copy(image.path(), disk).map(drop));
        found(node, name);
        Placed { name: name.to_owned(), disk }
    }

    /// Replicates a VM of `node` to R; returns once that is committed.
    pub fn enable(&self, node: &Node, vm: &str) {
        let body = serde_json::json!({"to": R_CAP, "frequency_seconds": 30, "recovery_points": 2});
        let path = format!("/v1/vms/{vm}/replication");
        self.ask(node, Method::PUT, &path, Some(&body)).unwrap_or_else(|refusal| panic!("{vm}: {refusal}"));
    }

    /// Ends it on both sides, and removes the VM.
    pub fn disable(&self, node: &Node, vm: &str) {
        node.cli(["vm", "disable", vm, "--wait"]);
        fs::remove_dir_all(node.vm_path().join(vm)).expect("the VM's folder");
        for keeper in self.r.nodes() {
            let uuid = VmFolder::new(vm).uuid().to_string();
            fs::remove_dir_all(keeper.storage_path().join(uuid)).ok();
        }
    }
}

/// A VM that was put on p2.
pub struct Placed {
    /// Its name.
    pub name: String,
    /// Its disk.
    pub disk: PathBuf,
}

/// Puts a VM with one disk on `node`, written by `write` and synced; the disk. The VM has no command: it is stopped, and
/// stays so.
pub fn put(node: &Node, name: &str, write: impl FnOnce(&Path) -> std::io::Result<()>) -> PathBuf {
    let folder = node.vm_path().join(name);
    fs::create_dir_all(&folder).expect("a folder");
    let disk = folder.join("vda.raw");
    write(&disk).expect("room for a disk");
    fs::File::open(&disk).and_then(|file| file.sync_all()).expect("a sync");
    let uuid = VmFolder::new(name).uuid();
    let text = format!("uuid = \"{uuid}\"\nname = \"{name}\"\n[[disk]]\ntarget = \"vda\"\npath = \"vda.raw\"\n");
    let staged = folder.join("new");
    fs::write(&staged, text).and_then(|()| fs::rename(&staged, folder.join("vm.toml"))).expect("a VM's file");
    disk
}

/// Waits until the VM service of `node` has found `vm` and looked at its images.
pub fn found(node: &Node, vm: &str) {
    eventually(LONG, &format!("{vm} to be found"), || {
        let shown = node.try_cli(["vm", "show", vm]).map_err(|failure| failure.to_string())?;
        if shown["fault"].is_null() { Ok(()) } else { Err(shown.to_string()) }
    });
}

/// A node whose senders are due every `millis` and tell of their cycles.
fn primaries(name: &str, millis: i64) -> NodeSpec {
    let mut spec = NodeSpec::new(name);
    spec.config.insert("testing".to_owned(), toml::toml! { interval_ms = millis }.into());
    spec.environment.push(("LANDFALL_LOG".to_owned(), SENDER_LOG.to_owned()));
    spec
}

fn invitation(r: &Cluster) -> String {
    let invited = r.first().cli(["peer", "invite"]);
    invited["code"].as_str().expect("a pairing code").to_owned()
}
