//! Disks that are excluded, and disks that grow, come and go while their VM is replicated.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

use landfall_kit::process::{Cluster, VmFolder, eventually};
use serde_json::Value;

use crate::stage::{LONG, R_CAP, enable, export, found, join_up, newest, primaries, replicas, text};

const BRANCH: &str = "Branch_Office";

/// Waits for a point with these disks, in bytes, and compares each with its image.
fn has_disks(r: &Cluster, folder: &Path, expected: &[(&str, u64)], name: &str) -> u64 {
    let to = r.folder().join(name);
    eventually(LONG, &format!("a point with {expected:?}"), || {
        let point = newest(r.first(), BRANCH)?;
        let _ = std::fs::remove_dir_all(&to);
        let exported = export(r.first(), BRANCH, Some(point), &to).map_err(|failure| failure.to_string())?;
        let found: Vec<(String, u64)> = exported["files"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|file| (text(&file["target"]), file["bytes"].as_u64().unwrap()))
            .collect();
        let same = found.iter().map(|(target, bytes)| (target.as_str(), *bytes)).eq(expected.iter().copied());
        let content = |folder: &Path, target: &str| std::fs::read(folder.join(format!("{target}.raw"))).unwrap();
        if same && expected.iter().all(|(target, _)| content(&to, target) == content(folder, target)) {
            Ok(point)
        } else {
            Err(format!("point {point} has {found:?}"))
        }
    })
}

/// Two clusters, and a VM of two disks that is not replicated yet.
fn branch_office() -> (Cluster, Cluster, PathBuf) {
    let r = replicas().node("r1").start();
    let p = primaries(&["p1"]).start();
    join_up(&p, &r);
    let vm = VmFolder::new(BRANCH).disk("vda", 2 << 20, 3).disk("vdb", 1 << 20, 4);
    let folder = vm.create_in(&p.first().vm_path()).unwrap();
    found(p.first(), BRANCH);
    (r, p, folder)
}

fn grow(image: &Path, bytes: u64) {
    OpenOptions::new().write(true).create(true).truncate(false).open(image).unwrap().set_len(bytes).unwrap();
}

#[test]
fn a_disk_that_grows_comes_or_goes_is_followed_and_old_points_keep_what_they_had() {
    let (r, p, folder) = branch_office();
    enable(p.first(), BRANCH);
    let first = has_disks(&r, &folder, &[("vda", 2 << 20), ("vdb", 1 << 20)], "first");

    grow(&folder.join("vdb.raw"), (1 << 20) + 70_144);
    has_disks(&r, &folder, &[("vda", 2 << 20), ("vdb", (1 << 20) + 70_144)], "grown");
    let shown = p.first().cli(["vm", "show", BRANCH]);
    assert_eq!(shown["disks"][1]["bytes"], (1 << 20) + 70_144, "{shown}");

    std::fs::write(folder.join("vdc.raw"), vec![7; 300_032]).unwrap();
    let file = folder.join("vm.toml");
    let before = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{before}\n[[disk]]\ntarget = \"vdc\"\npath = \"vdc.raw\"\n")).unwrap();
    has_disks(&r, &folder, &[("vda", 2 << 20), ("vdb", (1 << 20) + 70_144), ("vdc", 300_032)], "added");
    std::fs::write(&file, before).unwrap();
    has_disks(&r, &folder, &[("vda", 2 << 20), ("vdb", (1 << 20) + 70_144)], "removed");
    let events = p.first().call(["event", "tail", "--recent", "1000", "--no-follow"]).stdout;
    assert!(events.contains("vdb has grown from 1048576") && events.contains("vdc is added"), "{events}");
    assert!(events.contains("vdc is removed"), "{events}");
    // The oldest point that is still there restores with the disks of its time.
    if let Ok(exported) = export(r.first(), BRANCH, Some(first), &r.folder().join("old")) {
        assert_eq!(exported["files"][1]["bytes"], 1 << 20, "{exported}");
    }
}

/// The codes of the primary's health, each with its severity, and all sentences.
fn health(p: &Cluster) -> Result<(BTreeMap<String, String>, String), String> {
    let shown = p.first().try_cli(["vm", "show", BRANCH]).map_err(|failure| failure.to_string())?;
    let details = shown["health_details"].as_array().cloned().unwrap_or_default();
    let codes = details.iter().map(|detail| (text(&detail["code"]), text(&detail["severity"]))).collect();
    Ok((codes, shown["health_details"].to_string()))
}

#[test]
fn a_disk_that_has_grown_is_no_reason_to_worry_unless_it_cannot_be_followed() {
    let r = replicas().node("r1").start();
    let p = primaries(&["p1", "p2"]).witness("pw").start();
    join_up(&p, &r);
    let vm = VmFolder::new(BRANCH).disk("vda", 2 << 20, 3);
    let folder = vm.create_in(&p.first().vm_path()).unwrap();
    found(p.first(), BRANCH);
    enable(p.first(), BRANCH);
    has_disks(&r, &folder, &[("vda", 2 << 20)], "first");

    // Without a quorum what the VM is now cannot be committed: what is a moment otherwise lasts.
    let away = ["p2", "pw"].map(|name| p.node(name));
    away.iter().for_each(|node| node.stop_agent());
    grow(&folder.join("vda.raw"), 3 << 20);
    let told = eventually(LONG, "the grown disk to be told", || match health(&p)? {
        (codes, told) if codes.contains_key("disk_growing") => {
            assert!(codes.values().all(|severity| severity == "warning"), "{codes:?}");
            Ok(told)
        }
        (codes, _) => Err(format!("{codes:?}")),
    });
    assert!(told.contains("from 2097152 to 3145728 bytes") && told.contains("by itself"), "{told}");
    let told = eventually(LONG, "what is in the way to be told", || match health(&p)? {
        (codes, told) if codes.get("cannot_send").is_some_and(|severity| severity == "critical") => Ok(told),
        (codes, told) => Err(format!("{codes:?}: {told}")),
    });
    assert!(told.contains("no owner"), "{told}");
    let events = p.first().events();
    assert_eq!(events.iter().filter(|event| event["kind"] == "disks_not_followed").count(), 1, "told once");

    away.iter().for_each(|node| node.continue_agent());
    has_disks(&r, &folder, &[("vda", 3 << 20)], "grown");
    eventually(LONG, "nothing to be wrong any more", || match health(&p)? {
        (codes, _) if codes.is_empty() => Ok(()),
        (codes, told) => Err(format!("{codes:?}: {told}")),
    });
}

#[test]
fn an_excluded_disk_is_in_no_form_at_the_replica() {
    let (r, p, folder) = branch_office();
    let p1 = p.first();
    for (bad, told) in [(&["vdx"][..], "vda, vdb"), (&["vda", "vdb"], "at least one")] {
        let mut line = vec!["vm", "enable", BRANCH, "--to", R_CAP];
        bad.iter().for_each(|disk| line.extend(["--exclude", disk]));
        let failure = p1.try_cli(line).unwrap_err();
        assert_eq!((failure.exit, failure.field.as_deref()), (2, Some("exclude")), "{failure}");
        assert!(format!("{failure:?}").contains(told), "{failure:?}");
    }
    p1.cli(["vm", "enable", BRANCH, "--to", R_CAP, "--frequency", "30", "--exclude", "vdb", "--timeout", "120s"]);
    has_disks(&r, &folder, &[("vda", 2 << 20)], "without");
    let shown = p1.cli(["vm", "show", BRANCH]);
    assert_eq!(shown["excluded_disks"], Value::from(vec!["vdb"]), "{shown}");
    let replica = r.first().storage_path().join(text(&shown["uuid"]));
    for entry in std::fs::read_dir(replica).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(!name.contains("vdb"), "{name}");
    }
    // It may change as it likes.
    grow(&folder.join("vdb.raw"), 3 << 20);
    grow(&folder.join("vda.raw"), 3 << 20);
    has_disks(&r, &folder, &[("vda", 3 << 20)], "grown");
}
