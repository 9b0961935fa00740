//! Holders that come back: without their storage, after the replica went elsewhere, and in time.

use std::fs;
use std::path::Path;

use landfall_kit::process::eventually;
use serde_json::Value;

use crate::stage::{LONG, WORK, check, enable, export, goes_on, join_up, newest, primaries, put, replicas, workload};

/// The reasons that `shown` gives for its health.
fn reasons(shown: &Value) -> String {
    let reasons = shown["health_reasons"].as_array().into_iter().flatten();
    reasons.filter_map(Value::as_str).collect::<Vec<_>>().join("; ")
}

/// The plain names in a folder, but for what a probe of the storage leaves.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    entries.filter(|name| !name.starts_with(".landfall")).collect()
}

/// What a node does that boots before the file system of its replicas is mounted.
#[test]
fn a_holder_whose_storage_is_not_mounted_says_so_and_goes_on_once_it_is() {
    let r = replicas().node("r1").start();
    let p = primaries(&["p1"]).start();
    join_up(&p, &r);
    let (r1, p1) = (r.first(), p.first());
    put(&workload(WORK), p1);
    enable(p1, WORK);
    goes_on(r1, WORK);
    let away = r1.folder().join("unmounted");
    r1.lose();
    let before = newest_in(&r1.storage_path());
    fs::rename(r1.storage_path(), &away).unwrap();
    fs::create_dir(r1.storage_path()).unwrap();
    r1.start();
    r1.wait_ready();

    let shown = eventually(LONG, "the fault to be shown", || {
        let shown = r1.try_cli(["vm", "show", WORK]).map_err(|failure| failure.to_string())?;
        if reasons(&shown).contains("holds no recovery point") { Ok(shown) } else { Err(shown.to_string()) }
    });
    assert_eq!(shown["health"], "critical", "{shown}");
    let refused = r1.try_cli(["point", "list", WORK]).unwrap_err();
    assert!(refused.message.contains("holds no recovery point"), "{refused}");
    eventually(LONG, "the primary to be refused", || {
        let shown = p1.try_cli(["vm", "show", WORK]).map_err(|failure| failure.to_string())?;
        let fault = reasons(&shown);
        if fault.contains("holds no recovery point") { Ok(()) } else { Err(shown.to_string()) }
    });
    assert_eq!(names(&r1.storage_path()), Vec::<String>::new(), "nothing is made at the mount point");

    fs::remove_dir_all(r1.storage_path()).unwrap();
    fs::rename(&away, r1.storage_path()).unwrap();
    eventually(LONG, "the points to be listed again", || {
        let now = newest(r1, WORK)?;
        if now >= before { Ok(()) } else { Err(now.to_string()) }
    });
    goes_on(r1, WORK);
    let folder = r.folder().join("exported");
    export(r1, WORK, None, &folder).unwrap();
    check(r1, &folder);
}

/// The newest point that the only replica in `location` lists, read from its file names.
fn newest_in(location: &Path) -> u64 {
    let replica = location.join(names(location).first().unwrap());
    let points = names(&replica).into_iter().filter_map(|name| {
        let name = name.strip_suffix(".qcow2")?.to_owned();
        name.rsplit_once('-')?.1.parse().ok()
    });
    points.max().unwrap()
}
