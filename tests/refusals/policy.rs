//! Settings, authorization and members.

use landfall_kit::process::eventually;

use crate::{LONG, SOON, cluster, mistyped, refused};

#[test]
fn settings_patterns_and_removed_members() {
    let r = cluster("R", &["r1", "r2"]).start();
    let node = r.first();
    node.cli(["settings", "set", "replication_enabled=true"]);
    node.cli(["authorization", "add", "*.contoso.test"]);
    let all = || {
        [["settings", "show"], ["settings", "history"], ["authorization", "list"], ["token", "list"]]
            .map(|read| node.cli(read))
    };
    let before = all();

    for (value, code, field, exit, right) in [
        ("replication_enable=true", "unknown_setting", "key", 2, "did you mean replication_enabled?"),
        ("maximum_active_transfers=0", "invalid_value", "maximum_active_transfers", 2, "1"),
        ("apply_disk_limit=261", "invalid_value", "apply_disk_limit", 2, "260"),
        ("node_down_after=1s", "invalid_value", "node_down_after", 2, "2s"),
        ("node_down_after=soon", "invalid_value", "node_down_after", 2, "2s"),
        ("monitoring_start_time=24:00", "invalid_value", "monitoring_start_time", 2, "09:00"),
        ("placement=spread", "invalid_value", "placement", 2, "random"),
        ("authentication=kerberos", "not_supported", "authentication", 3, "certificate"),
        ("authentication=certificate_and_kerberos", "not_supported", "authentication", 3, "certificate"),
        ("allowed_from_any_server=true", "incomplete", "default_storage_location", 2, "default_storage_location=NAME"),
    ] {
        let failure = refused(node, ["settings", "set", value], (exit, code, field));
        let (key, text) = value.split_once('=').unwrap();
        let named = if code == "unknown_setting" { key } else { text };
        assert!(failure.message.contains(named), "{failure}");
        assert!(failure.remedy.unwrap().contains(right), "{value}");
    }
    // One bad value refuses the good one beside it.
    refused(
        node,
        ["settings", "set", "apply_vm_limit=9", "apply_disk_limit=-1"],
        (2, "invalid_value", "apply_disk_limit"),
    );
    let revision = before[0]["revision"].as_u64().unwrap();
    let stale = (revision - 1).to_string();
    let failure =
        refused(node, ["settings", "set", "--expect", &stale, "apply_vm_limit=9"], (3, "revision_conflict", "expect"));
    assert!(failure.message.contains(&revision.to_string()) && failure.message.contains(&stale), "{failure}");

    for pattern in ["p-*.contoso.test", "*.*.test", "a.*.test", "**", "*contoso.test", "", "10.0.0.1:7443", "p1"] {
        mistyped(node, ["authorization", "add", pattern], pattern);
    }
    refused(node, ["authorization", "remove", "p.contoso.test"], (4, "not_found", "primary"));
    mistyped(node, ["authorization", "add", "p.contoso.test", "--storage", "../x"], "../x");
    assert_eq!(all(), before);
    removed(&r);
}

fn removed(r: &landfall_kit::process::Cluster) {
    let owner = eventually(LONG, "an owner", || r.owner_seen_by("r1"));
    let owner = r.node(&owner);
    let gone = r.nodes().iter().find(|node| node.name() != owner.name()).unwrap();
    refused(owner, ["node", "remove", "r9"], (4, "not_found", "node"));
    refused(owner, ["node", "remove", owner.name()], (3, "is_owner", "node"));
    assert_eq!(owner.cli(["node", "list"]).as_array().unwrap().len(), 2);

    owner.cli(["node", "remove", gone.name()]);
    eventually(LONG, "the one that is left to be alone and to decide", || {
        let status = owner.try_cli(["cluster", "status"]).map_err(|failure| failure.to_string())?;
        let alone = status["members"].as_array().map(Vec::len) == Some(1) && status["quorate"] == true;
        if alone { Ok(()) } else { Err(status.to_string()) }
    });
    owner.cli(["settings", "set", "apply_vm_limit=3"]);
    let before = owner.cli(["settings", "show"]);
    for start in ["as it runs", "started again"] {
        if start == "started again" {
            gone.restart_agent();
        }
        let failure = gone.try_cli(["settings", "set", "apply_vm_limit=66"]).unwrap_err();
        assert_eq!(failure.exit, 5, "{start}: {failure}");
        assert!(matches!(failure.code.as_str(), "no_quorum" | "owner_unreachable"), "{start}: {failure}");
        assert!(failure.remedy.is_some());
        eventually(SOON, "the removed node to see that it has no quorum", || {
            let status = gone.try_cli(["cluster", "status"]).map_err(|failure| failure.to_string())?;
            if status["quorate"] == false { Ok(()) } else { Err(status.to_string()) }
        });
    }
    assert_eq!(owner.cli(["settings", "show"]), before);
    assert_eq!(owner.cli(["node", "list"]).as_array().unwrap().len(), 1);
}
