//! Replication is ended while the replicas' cluster is away: it hears of that by itself once it is there again.

use landfall_kit::process::{Node, VmFolder, eventually};
use serde_json::{Value, json};

use crate::stage::{LONG, WORK, enable, findings, found, goes_on, join_up, newest, primaries, replicas, text};

/// About which VMs doctor at `node` says that their replica's cluster was not told.
fn left_behind(node: &Node) -> Result<Vec<String>, String> {
    Ok(findings(node, &["replica_left"])?.iter().map(|finding| text(&finding["about"])).collect())
}

#[test]
fn the_other_half_of_a_replication_that_was_ended_ends_by_itself_once_its_cluster_is_reached() {
    let r = replicas().node("r1").start();
    let p = primaries(&["p1"]).start();
    join_up(&p, &r);
    let (r1, p1) = (r.first(), p.first());
    let vm = VmFolder::new(WORK).disk("vda", 2 << 20, 1).writing(50);
    vm.create_in(&p1.vm_path()).unwrap();
    found(p1, WORK);
    enable(p1, WORK);
    goes_on(r1, WORK);

    r1.lose();
    let answer = p1.call(["vm", "disable", WORK]);
    assert_eq!(answer.code, Some(0), "it is ended here: {answer}");
    assert!(answer.stdout.contains("told by itself") && answer.stdout.contains("landfall vm disable"), "{answer}");
    assert_eq!(p1.cli(["vm", "show", WORK])["state"], "disabled");
    assert_eq!(left_behind(p1), Ok(vec![WORK.to_owned()]));
    // The wish is the cluster's, not the agent's.
    p1.restart_agent();
    r1.start();
    r1.wait_ready();
    eventually(LONG, "the replica to be ended", || match r1.try_cli(["vm", "show", WORK]) {
        Err(failure) if failure.code == "not_found" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    eventually(LONG, "that to be told", || {
        let told = p1.events().iter().any(|event| event["kind"] == "replica_ended");
        if told && left_behind(p1)?.is_empty() { Ok(()) } else { Err("not yet") }.map_err(str::to_owned)
    });
    let files = r1.storage_path().join(vm.uuid().to_string());
    assert!(std::fs::read_dir(&files).unwrap().count() > 0, "no file is removed");

    // Begun anew, it is not ended by what was wished before, whoever owns the CAP.
    enable(p1, WORK);
    p1.restart_agent();
    let before = newest(r1, WORK).unwrap();
    assert!(goes_on(r1, WORK) > before);
    let ended = p1.cli(["vm", "disable", WORK]);
    assert_eq!((&ended["replica_left"], &ended["ends_by_itself"]), (&Value::Null, &json!(false)), "{ended}");
    assert_eq!(r1.try_cli(["vm", "show", WORK]).unwrap_err().exit, 4);
}
