//! Tokens and pairing codes that admit nobody.

use std::fs;

use landfall_kit::process::{Node, eventually};
use serde_json::Value;

use crate::{LONG, SOON, cluster, refused};

#[test]
fn tokens_admit_only_whom_they_should() {
    let a = cluster("A", &["a1"]).start();
    let b = cluster("B", &["b1"]).start();
    // Agents that belong to no cluster.
    let free = cluster("Free", &["s1", "s2"]).create();
    free.start_agents();
    let (s1, s2) = (free.node("s1"), free.node("s2"));
    let create = |node: &Node, ttl: &str| {
        let created = node.cli(["token", "create", "--ttl", ttl]);
        [created["token"].as_str().unwrap(), created["id"].as_str().unwrap()].map(str::to_owned)
    };
    let members = || [a.first(), b.first()].map(|node| node.cli(["node", "list"]).as_array().map(Vec::len));
    let unmoved = |node: &Node| {
        assert_eq!(members(), [Some(1), Some(1)]);
        assert_eq!(node.try_cli(["cluster", "status"]).unwrap_err().code, "no_cluster");
    };

    garbage(s1, &create(a.first(), "1h")[0]);
    unmoved(s1);

    let [token, id] = create(a.first(), "1s");
    let listed = |id: &str| a.first().cli(["token", "list"]).to_string().contains(id);
    eventually(SOON, "the token to expire", || !listed(&id));
    let failure = s1.try_cli(["cluster", "join", &token]).unwrap_err();
    assert!(matches!(failure.code.as_str(), "ticket_expired" | "unknown_token"), "{failure}");
    assert!(failure.exit == 3 && failure.message.contains("expired"), "{failure}");
    assert!(failure.field.as_deref() == Some("token") && failure.remedy.unwrap().contains("landfall token create"));
    unmoved(s1);

    let [token, id] = create(a.first(), "1h");
    a.first().cli(["token", "revoke", &id]);
    refused(s1, ["cluster", "join", &token], (3, "unknown_token", "token"));
    refused(a.first(), ["token", "revoke", &id], (4, "not_found", "id"));
    unmoved(s1);

    let code = a.first().cli(["peer", "invite"])["code"].as_str().unwrap().to_owned();
    let failure = refused(s1, ["cluster", "join", &code], (2, "invalid_value", "token"));
    assert!(failure.message.contains("pairing code"), "{failure}");
    refused(a.first(), ["peer", "accept", &code], (3, "own_code", "code"));
    refused(b.first(), ["peer", "accept", &token], (2, "invalid_value", "code"));
    assert_eq!([a.first(), b.first()].map(|node| node.cli(["peer", "list"])), [const { Value::Array(Vec::new()) }; 2]);
    unmoved(s1);

    let witness = a.first().cli(["token", "create", "--witness"])["token"].as_str().unwrap().to_owned();
    refused(s1, ["cluster", "join", &witness], (3, "witness_mismatch", "witness"));
    unmoved(s1);

    // Of a cluster that is gone: at its address another one answers, with another CA.
    let [token, _] = create(b.first(), "1h");
    b.first().kill_agent();
    fs::remove_dir_all(b.first().data_dir()).unwrap();
    fs::create_dir(b.first().data_dir()).unwrap();
    b.start_agents();
    b.form();
    let failure = s1.try_cli(["cluster", "join", &token]).unwrap_err();
    assert!(matches!(failure.exit, 3 | 5) && failure.remedy.is_some(), "{failure}");
    unmoved(s1);

    // Used: the same key may come again, another may not.
    let [token, _] = create(a.first(), "1h");
    s1.cli(["cluster", "join", &token]);
    let failure = refused(s2, ["cluster", "join", &token], (3, "ticket_used", "token"));
    assert!(failure.message.contains("used"), "{failure}");
    assert_eq!(s2.try_cli(["cluster", "status"]).unwrap_err().code, "no_cluster");
    assert_eq!(members(), [Some(2), Some(1)]);
    let failure = s1.try_cli(["cluster", "join", &create(b.first(), "1h")[0]]).unwrap_err();
    assert_eq!((failure.exit, failure.code.as_str()), (3, "already_member"), "{failure}");
    let failure = a.first().try_cli(["cluster", "init", "--name", "C", "--cap", "c.contoso.test"]).unwrap_err();
    assert_eq!((failure.exit, failure.code.as_str()), (3, "already_member"), "{failure}");
    let name = eventually(LONG, "the cluster's name", || a.first().try_cli(["cluster", "status"]));
    assert_eq!(name["cluster"], "A");
}

fn garbage(node: &Node, good: &str) {
    let mut mistyped = good.to_owned().into_bytes();
    let at = mistyped.len() / 2;
    mistyped[at] = if mistyped[at] == b'A' { b'B' } else { b'A' };
    let mistyped = String::from_utf8(mistyped).unwrap();
    let long = format!("landfall-join-{}", "A".repeat(60_000));
    for token in ["x", "landfall-join-", "landfall-join-????", &good[..good.len() - 1], &mistyped, &long] {
        let failure = refused(node, ["cluster", "join", token], (2, "invalid_value", "token"));
        assert!(token.len() < 20 || !failure.message.contains(token), "a secret is not repeated");
    }
}
