//! VMs that cannot be replicated as they are, and replicas that cannot be stored.

use std::fs::{self, OpenOptions};
use std::path::Path;

use landfall_kit::process::{Cluster, Node, VmFolder, eventually, pair};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::Value;

use crate::{LANDFALL, LONG, SOON, cluster, quick, refused};

fn vm(name: &str) -> VmFolder {
    VmFolder::new(name).disk("vda", 2 << 20, 1)
}

fn add(vm: &VmFolder, node: &Node) -> std::path::PathBuf {
    let folder = vm.create_in(&node.vm_path()).unwrap();
    eventually(SOON, "the VM to be found", || {
        let shown = node.try_cli(["vm", "show", vm.name()]).map_err(|failure| failure.to_string())?;
        if shown["fault"].is_null() { Ok(()) } else { Err(shown.to_string()) }
    });
    folder
}

fn faulty(node: &Node, vm: &str) {
    eventually(SOON, "the VM service to see the fault", || {
        let shown = node.try_cli(["vm", "show", vm]).map_err(|failure| failure.to_string())?;
        let told = shown["fault"]["code"].as_str().is_some_and(|code| code != "not_measured");
        if told { Ok(()) } else { Err(shown.to_string()) }
    });
}

fn up(r: &Cluster, p: &Cluster, group: &str) {
    pair(p, r);
    r.first().cli(["authorization", "add", p.cap(), "--trust-group", group]);
}

#[test]
fn vms_that_cannot_be_replicated_as_they_are() {
    let r = cluster("R", &["r1"]).start();
    let p = cluster("P", &["p1"]).start();
    let node = p.first();
    add(&vm("good"), node);
    refused(node, ["vm", "enable", "good", "--to", "r.contoso.test"], (4, "unknown_peer", "to"));
    up(&r, &p, "T1");
    refused(
        node,
        ["vm", "enable", "good", "--to", "r.contoso.test"],
        (3, "replication_disabled", "replication_enabled"),
    );
    r.first().cli(["settings", "set", "replication_enabled=true"]);
    requests(node);
    images(node);
    names(node);
    assert_eq!(r.first().cli(["vm", "list"]), Value::Array(Vec::new()), "nothing was placed by any of this");

    node.cli(["vm", "enable", "good", "--to", r.cap(), "--frequency", "30", "--timeout", "60s"]);
    let failure = node.try_cli(["vm", "enable", "good", "--to", r.cap()]).unwrap_err();
    assert_eq!((failure.exit, failure.code.as_str()), (3, "already_enabled"), "{failure}");
    wrong_trust_group(&r);
    shrunk(&r, node);
    refused(r.first(), ["vm", "move", "good", "--to", "r9"], (4, "not_found", "to"));
    refused(r.first(), ["vm", "move", "nobody", "--to", "r1"], (4, "not_found", "vm"));
    refused(node, ["vm", "move", "good", "--to", "p1"], (4, "no_replica", "vm"));
}

fn requests(node: &Node) {
    for (arguments, expected) in [
        (["--frequency", "31"], "30, 300 or 900"),
        (["--recovery-points", "25"], "0 to 24"),
        (["--to", "10.0.0.1"], ""),
        (["--to", "*.contoso.test"], ""),
    ] {
        let mut call = vec!["vm", "enable", "good"];
        if arguments[0] != "--to" {
            call.extend(["--to", "r.contoso.test"]);
        }
        call.extend(arguments);
        let failure = node.try_cli(call).unwrap_err();
        assert_eq!(failure.exit, 2, "{failure}");
        assert!(failure.message.contains(arguments[1]), "the value is named: {failure}");
        let told = format!("{} {}", failure.message, failure.remedy.unwrap_or_default());
        assert!(told.contains(expected), "{told}");
    }
    let failure = node.try_cli(["vm", "enable", "nobody", "--to", "r.contoso.test"]).unwrap_err();
    assert_eq!((failure.exit, failure.field.as_deref()), (4, Some("vm")), "{failure}");
}

fn images(node: &Node) {
    let missing = add(&vm("missing"), node);
    fs::remove_file(missing.join("vda.raw")).unwrap();
    let truncated = add(&vm("truncated"), node);
    OpenOptions::new().write(true).open(truncated.join("vda.raw")).unwrap().set_len((1 << 20) + 100).unwrap();
    let overlay = add(&vm("overlay"), node);
    fs::write(overlay.join("vda.raw"), b"QFI\xfb\0\0\0\x03").unwrap();
    for (name, why) in [("missing", "No such file"), ("truncated", "not whole sectors"), ("overlay", "truncated")] {
        faulty(node, name);
        let failure =
            refused(node, ["vm", "enable", name, "--to", "r.contoso.test"], (1, "image_unusable", "disk.path"));
        assert!(failure.message.contains(why) && failure.message.contains(&format!("{name}/vda.raw")), "{failure}");
        assert_eq!(node.cli(["vm", "show", name])["state"], "disabled");
    }
}

fn names(node: &Node) {
    let path = node.vm_path();
    for (folder, name) in [("up", "../../etc"), ("nul", "a\\u0000b"), ("long", &*"n".repeat(300))] {
        let made = vm(folder).create_in(&path).unwrap();
        let file = made.join("vm.toml");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replace(&format!("name = \"{folder}\""), &format!("name = \"{name}\""))).unwrap();
        eventually(SOON, "the VM to be listed with its fault", || {
            let shown =
                node.try_cli(["vm", "show", &vm(folder).uuid().to_string()]).map_err(|failure| failure.to_string())?;
            let told = shown["fault"]["message"].as_str().unwrap_or_default();
            let right = told.contains("vm.toml:") && told.contains("name: ") && told.contains("is not allowed");
            if right { Ok(()) } else { Err(shown.to_string()) }
        });
        let uuid = vm(folder).uuid().to_string();
        let failure = node.try_cli(["vm", "enable", &uuid, "--to", "r.contoso.test"]).unwrap_err();
        assert!(failure.remedy.is_some() && failure.message.contains("name"), "{failure:?}");
    }
    // None of them names a VM, whatever is made of them on the way.
    for name in ["../../etc", &"n".repeat(300), ".."] {
        let failure = node.try_cli(["vm", "show", name]).unwrap_err();
        assert!(matches!(failure.exit, 2 | 4), "{failure}");
    }

    let first = add(&vm("twin"), node);
    copy(&first, &path.join("twin-too"));
    faulty(node, &vm("twin").uuid().to_string());
    let uuid = vm("twin").uuid().to_string();
    let failure = refused(node, ["vm", "enable", &uuid, "--to", "r.contoso.test"], (3, "duplicate_vm", "uuid"));
    assert!(failure.message.contains("/twin") && failure.message.contains("/twin-too"), "both are named: {failure}");
    fs::remove_dir_all(path.join("twin-too")).unwrap();
    eventually(SOON, "the conflict to end", || node.cli(["vm", "show", "twin"])["fault"].is_null());
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Another cluster has a VM with the UUID of one that is replicated here, and is authorized under another group.
fn wrong_trust_group(r: &Cluster) {
    let q = cluster("Q", &["q1"]).start();
    up(r, &q, "T2");
    add(&vm("good"), q.first());
    let before = r.first().cli(["vm", "show", "good"]);
    let failure =
        refused(q.first(), ["vm", "enable", "good", "--to", r.cap()], (3, "wrong_trust_group", "trust_group"));
    assert!(failure.message.contains("T1") && failure.message.contains("T2"), "{failure}");
    let after = r.first().cli(["vm", "show", "good"]);
    for field in ["connection_point", "trust_group", "epoch", "replica_host"] {
        assert_eq!(after[field], before[field], "{field}");
    }
    assert_eq!(q.first().cli(["vm", "show", "good"])["state"], "disabled");
}

/// An image that lost its end; one that grows makes the replica grow (`tests/broker`: disks).
fn shrunk(r: &Cluster, node: &Node) {
    let listed = |node: &Node| node.cli(["point", "list", "good"]).as_array().unwrap().last().unwrap()["point"].clone();
    let image = node.vm_path().join("good/vda.raw");
    OpenOptions::new().write(true).open(&image).unwrap().set_len(1 << 20).unwrap();
    let shown = eventually(LONG, "the shrunk image to be told", || {
        let shown = node.try_cli(["vm", "show", "good"]).map_err(|failure| failure.to_string())?;
        if shown["fault"]["code"] == "disk_resized" { Ok(shown) } else { Err(shown.to_string()) }
    });
    assert_eq!((&shown["health"], &shown["fault"]["field"]), (&"critical".into(), &"disk".into()));
    let told = shown["fault"]["message"].as_str().unwrap();
    assert!(told.contains("1048576") && told.contains("2097152"), "{told}");
    assert!(shown["fault"]["remedy"].as_str().unwrap().contains("disable replication"), "{shown}");
    let before = listed(r.first());
    let to = r.folder().join("before-it-shrank");
    r.first().cli(["point", "export", "good", &to.to_string_lossy()]);
    assert_eq!(fs::metadata(to.join("vda.raw")).unwrap().len(), 2 << 20);
    assert_eq!(listed(r.first()), before);
}

#[test]
fn a_grown_disk_is_replicated_anew_as_the_remedy_says() {
    let (r, p) = (cluster("R", &["r1"]).start(), cluster("P", &["p1"]).start());
    let node = p.first();
    up(&r, &p, "T1");
    r.first().cli(["settings", "set", "replication_enabled=true"]);
    let image = add(&vm("good"), node).join("vda.raw");
    node.cli(["vm", "enable", "good", "--to", r.cap(), "--frequency", "30", "--timeout", "60s"]);
    node.cli(["vm", "disable", "good"]);
    OpenOptions::new().write(true).open(&image).unwrap().set_len(3 << 20).unwrap();
    eventually(SOON, "the new size to be known", || node.cli(["vm", "show", "good"])["disks"][0]["bytes"] == 3 << 20);
    node.cli(["vm", "enable", "good", "--to", r.cap(), "--frequency", "30", "--timeout", "60s"]);
    assert_eq!(r.first().cli(["vm", "show", "good"])["disks"][0]["bytes"], 3 << 20);
    // The wait was for a point of this relationship, not for one that the last one had.
    let to = r.folder().join("after-it-grew");
    r.first().cli(["point", "export", "good", &to.to_string_lossy()]);
    assert!(fs::read(to.join("vda.raw")).unwrap() == fs::read(&image).unwrap());
}

/// A file system of 160 MiB, mounted until dropped.
struct Small<'a>(&'a Path);

impl<'a> Small<'a> {
    fn mount(at: &'a Path) -> Option<Self> {
        let options = c"size=160m";
        mount("landfall-test", at, "tmpfs", MountFlags::empty(), options).ok().map(|()| Self(at))
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        unmount(self.0, UnmountFlags::DETACH).ok();
    }
}

#[test]
fn a_full_disk_keeps_what_is_listed_and_goes_on_when_there_is_room() {
    let outside = tempfile::tempdir().unwrap();
    let Some(_small) = Small::mount(outside.path()) else {
        eprintln!("*** SKIPPED: a full disk needs root, to mount a small file system");
        return;
    };
    let mut spec = quick("r1");
    let mut storage = toml::Table::new();
    storage.insert("name".to_owned(), "default".into());
    storage.insert("path".to_owned(), outside.path().to_string_lossy().into_owned().into());
    spec.config.insert("storage".to_owned(), vec![toml::Value::from(storage)].into());
    let r = Cluster::of(LANDFALL, "R", "r.contoso.test").spec(spec).start();
    let p = cluster("P", &["p1"]).start();
    up(&r, &p, "T1");
    r.first().cli(["settings", "set", "replication_enabled=true"]);
    let vm = VmFolder::new("work").disk("vda", 32 << 20, 1).writing(20);
    add(&vm, p.first());
    let node = p.first();
    node.cli([
        "vm",
        "enable",
        "work",
        "--to",
        r.cap(),
        "--frequency",
        "30",
        "--recovery-points",
        "2",
        "--timeout",
        "60s",
    ]);

    // Something else takes the room.
    let ballast = outside.path().join("ballast");
    let mut file = fs::File::create(&ballast).unwrap();
    while std::io::Write::write_all(&mut file, &[7; 1 << 14]).is_ok() {}
    let shown = eventually(LONG, "the full disk to be told", || {
        let shown = node.try_cli(["vm", "show", "work"]).map_err(|failure| failure.to_string())?;
        let told = shown["fault"]["message"].as_str().unwrap_or_default().to_lowercase();
        if told.contains("no space") || told.contains("full") { Ok(shown) } else { Err(shown.to_string()) }
    });
    assert_eq!(shown["health"], "critical");
    let points = r.first().cli(["point", "list", "work"]);
    let points = points.as_array().unwrap();
    assert!(!points.is_empty());
    for point in points {
        let to = p.folder().join(format!("full-{}", point["point"]));
        let number = point["point"].to_string();
        let exported = r.first().cli(["point", "export", "work", "--point", &number, &to.to_string_lossy()]);
        assert_eq!(exported["root"], point["root"], "the point restores while the disk is full");
    }
    let last = points.last().unwrap()["point"].as_u64().unwrap();
    drop(file);
    fs::remove_file(&ballast).unwrap();
    eventually(LONG, "replication to go on", || {
        let points = r.first().try_cli(["point", "list", "work"]).map_err(|failure| failure.to_string())?;
        let newest = points.as_array().and_then(|points| points.last()?["point"].as_u64());
        if newest > Some(last + 1) { Ok(()) } else { Err(points.to_string()) }
    });
    eventually(LONG, "the fault to be gone", || node.cli(["vm", "show", "work"])["fault"].is_null());
    let to = p.folder().join("after");
    r.first().cli(["point", "export", "work", &to.to_string_lossy()]);
}
