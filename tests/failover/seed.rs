//! Seed by disk: the first copy is carried, only what changed since is sent.

use std::fs;
use std::path::Path;

use landfall_kit::process::{Node, eventually};

use crate::stage::{LONG, WORK, enable, goes_on, paired, records, records_of_point, workload};

fn seed(node: &Node, verb: &str, vm: &str, folder: &Path) -> Result<serde_json::Value, landfall_kit::process::Failure> {
    node.try_cli(["vm", "seed", verb, vm, &folder.display().to_string()])
}

#[track_caller]
fn refused(node: &Node, verb: &str, vm: &str, folder: &Path, wanted: (i32, &str)) {
    let failure = seed(node, verb, vm, folder).expect_err("a refusal");
    assert_eq!((failure.exit, failure.code.as_str()), wanted, "{failure}");
    assert!(failure.field.is_some() && failure.remedy.is_some(), "{failure}");
}

/// Every file of a folder has the same name and bytes in another one.
fn copied(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn a_seed_is_carried_and_only_what_changed_since_crosses_the_line() {
    let (r, p, folder) = paired(&["r1", "r2"], &workload(""));
    let (r1, p1) = (r.first(), p.first());
    let out = p.folder().join("seed");
    refused(r1, "import", WORK, &out, (4, "not_found"));
    refused(p1, "export", "nothing", &out, (4, "not_found"));
    enable(&p, &["--start", "+1h"]);
    refused(p1, "import", WORK, &out, (4, "no_replica"));
    let written = seed(p1, "export", WORK, &out).unwrap();
    let names: Vec<String> =
        fs::read_dir(&out).unwrap().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    assert!(records(p1, &out) > 0, "one instant of both disks: {written}");
    refused(p1, "export", WORK, &out, (3, "file_exists"));

    // Carried to where the replica is, badly at first.
    let carried = r.folder().join("seed");
    refused(r1, "import", WORK, &carried, (3, "bad_seed"));
    copied(&out, &carried);
    fs::File::options().write(true).open(carried.join("vdb.raw")).unwrap().set_len(4096).unwrap();
    refused(r1, "import", WORK, &carried, (3, "bad_seed"));
    fs::remove_file(carried.join("vdb.raw")).unwrap();
    refused(r1, "import", WORK, &carried, (3, "bad_seed"));
    copied(&out, &carried);
    let mut damaged = fs::read(carried.join("vda.raw")).unwrap();
    damaged[3 << 20] ^= 1;
    fs::write(carried.join("vda.raw"), damaged).unwrap();
    refused(r1, "import", WORK, &carried, (1, "seed_damaged"));
    copied(&out, &carried);
    let taken = seed(r1, "import", WORK, &carried).unwrap();
    assert_eq!((&taken["files"][0]["root"], &taken["taken_at"]), (&written["files"][0]["root"], &written["taken_at"]));
    let listed = r1.cli(["point", "list", WORK]);
    assert_eq!(listed.as_array().map(Vec::len), Some(0), "nothing of a seed is a point: {listed}");

    // Kept over a restart, and compared by the first session.
    let holder = r1.cli(["vm", "locate", WORK])["node"].as_str().unwrap().to_owned();
    r.node(&holder).restart_agent();
    p1.cli(["vm", "resume", WORK]);
    let point = goes_on(r1);
    let shown = eventually(LONG, "the comparison to be shown", || {
        let shown = p1.try_cli(["vm", "show", WORK]).map_err(|failure| failure.to_string())?;
        if shown["compared"].is_null() { Err(shown.to_string()) } else { Ok(shown) }
    });
    let (disks, wire) = (20 << 20, shown["wire_bytes"].as_u64().unwrap());
    assert!(wire < disks / 5, "{wire} bytes on the wire for {disks} of disks");
    println!("a seed of {disks} bytes was carried; {wire} bytes crossed the line since");
    assert_eq!(shown["compared"]["code"], "unfinished", "{shown}");
    assert!(records_of_point(&r, point) > 0 && records(p1, &folder) > 0);
    refused(r1, "import", WORK, &carried, (3, "has_points"));
}

#[test]
fn another_vms_seed_is_refused() {
    let (r, p, _) = paired(&["r1"], &workload(""));
    let out = p.folder().join("seed");
    let other = landfall_kit::process::VmFolder::new("other").disk("vda", 16 << 20, 7).disk("vdb", (4 << 20) + 1536, 8);
    other.create_in(&p.first().vm_path()).unwrap();
    eventually(LONG, "the other VM to be seen", || seed(p.first(), "export", "other", &out).map_err(|e| e.to_string()));
    enable(&p, &["--start", "+1h"]);
    refused(r.first(), "import", WORK, &out, (3, "other_vm"));
}
