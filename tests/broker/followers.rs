//! Who comes to a cluster while its CA is rotated, and who is not followed.

use landfall_kit::process::{Cluster, Node, eventually, pair};
use landfall_proto::authority::{Authority, ca_fingerprint};
use landfall_proto::id::Position;
use landfall_proto::machine::MachineClock;
use landfall_proto::message::control::{ControlAnswer, News};
use landfall_proto::model::{CaLine, Succession};
use landfall_proto::seam::Outside;
use landfall_proto::trust;
use serde_json::{Value, json};

use crate::intruder::{Intruder, cluster_of};
use crate::rotation::{ca, follows, pinned};
use crate::stage::{LANDFALL, LONG, P_CAP, R_CAP, SOON, WORK, goes_on, one_to_one, primaries, replicas, text};

/// A node that is no member yet, of the name of a cluster that it knows nothing of.
fn newcomer(name: &str, witness: bool) -> Cluster {
    let spare = Cluster::of(LANDFALL, "spare", R_CAP);
    let spare = if witness { spare.witness(name) } else { spare.node(name) }.create();
    spare.start_agents();
    spare
}

/// Waits until `node` shows a certificate of the CA `next`.
fn has_certificate_of(node: &Node, next: &Value) {
    eventually(SOON, &format!("{} to have a certificate of {next}", node.name()), || {
        let (_, enrolment, _) = cluster_of(node);
        let newest = enrolment.line.newest();
        let named = *next == ca_fingerprint(newest).to_string();
        let issued = trust::expires_at(&enrolment.certificate, newest).is_some();
        if named && issued {
            Ok(())
        } else {
            Err(format!("its newest CA is the new one: {named}, its issuer: {issued}"))
        }
    });
}

#[test]
fn a_node_that_joins_in_the_middle_of_a_rotation_is_of_the_new_ca_and_trusts_both_until_its_end() {
    let r = replicas().node("r1").node("r2").start();
    let q = primaries(&["q1"]).start();
    pair(&q, &r);
    let (r1, r2, q1) = (r.node("r1"), r.node("r2"), q.first());
    let old_token = text(&r1.cli(["token", "create"])["token"]);
    let double = Intruder::as_node(r2, r1);
    double.probes(r1).expect("a certificate of the old CA counts");
    // The rotation does not end without it.
    q1.lose();
    let begun = r1.cli(["cluster", "rotate-ca"]);
    let (old, next) = (begun["ca"]["present"].clone(), begun["ca"]["rotation"]["next"].clone());

    // With a token of before, and with one of now, each from the other agent.
    let (spare, spare_witness) = (newcomer("r3", false), newcomer("rw", true));
    let (r3, rw) = (spare.first(), spare_witness.node("rw"));
    r3.cli(["cluster", "join", &old_token]);
    let new_token = text(&r2.cli(["token", "create", "--witness"])["token"]);
    rw.cli(["cluster", "join", &new_token]);
    for node in [r3, rw] {
        has_certificate_of(node, &next);
        eventually(LONG, &format!("{} to be one of those who have followed", node.name()), || {
            let ca = ca(node)?;
            let followed = ca["rotation"]["renewed"].as_array().is_some_and(|all| all.contains(&json!(node.name())));
            if followed && ca["present"] == old && ca["rotation"]["next"] == next {
                Ok(())
            } else {
                Err(ca.to_string())
            }
        });
        let trusted = |node: &Node| {
            cluster_of(node).2.cas.iter().map(|one| json!(ca_fingerprint(one).to_string())).collect::<Vec<_>>()
        };
        assert_eq!(trusted(node), [old.clone(), next.clone()], "{}", node.name());
        double.probes(node).expect("a member with a certificate of the old CA counts there, too");
    }
    // Who may issue has the key: the cluster can do without those that made it.
    let (papers, enrolment, _) = cluster_of(r3);
    assert!(papers.authority(enrolment.line.newest()).unwrap().is_some(), "a data node has the new CA's key");
    let (papers, enrolment, _) = cluster_of(rw);
    assert!(papers.authority(enrolment.line.newest()).unwrap().is_none(), "a witness has none");

    q1.start();
    for node in [r1, r2, r3, rw] {
        eventually(LONG, &format!("the rotation to end at {}", node.name()), || match ca(node)? {
            ca if ca["present"] == next && ca["rotation"].is_null() => Ok(()),
            ca => Err(ca.to_string()),
        });
    }
    for node in [r3, rw] {
        eventually(SOON, "the old certificate to be refused", || match double.probes_anew(node) {
            Err(_) => Ok(()),
            Ok(()) => Err("answered"),
        });
    }
    r1.lose();
    eventually(LONG, "the others to decide without it", || {
        r3.try_cli(["settings", "set", "copies=1"]).map_err(|failure| failure.to_string())
    });
}

/// A CA that nobody knows, in the name of the primaries.
fn rogue() -> Authority {
    Authority::found(&P_CAP.parse().unwrap(), Outside::machine().random.as_ref(), &MachineClock).unwrap()
}

/// `line`, and a CA after it that `step` vouches for.
fn followed_by(line: &CaLine, step: Succession) -> CaLine {
    let mut line = line.clone();
    line.after.push(step);
    (line.rotating, line.changed) = (true, Position::from_number(u64::MAX >> 17));
    line
}

#[test]
fn a_ca_that_the_pinned_one_has_not_signed_is_not_followed_and_that_is_told() {
    let (p, r) = one_to_one();
    let (r1, p1) = (r.first(), p.first());
    let before = pinned(r1, P_CAP).unwrap();

    // A node of the primaries that has gone bad: its certificate is good, its word on its cluster's CA is not.
    let (papers, enrolment, theirs) = cluster_of(p1);
    let own = papers.authority(enrolment.line.newest()).unwrap().expect("a data node has the CA's key");
    let (next, random) = (rogue(), Outside::machine().random);
    let at = Position::from_number(u64::MAX >> 17);
    let signed_by_itself = rogue().warrant(&next, at, random.as_ref(), &MachineClock).unwrap();
    let for_another = Succession {
        ca: rogue().certificate().to_vec(),
        ..own.warrant(&next, at, random.as_ref(), &MachineClock).unwrap()
    };
    let refusals = || {
        let events = r1.events();
        let refused = events.iter().filter(|event| event["kind"] == "peer_ca_refused").cloned();
        refused.collect::<Vec<Value>>()
    };
    assert!(refusals().is_empty());
    let double = Intruder::as_node(p1, r1);
    let (_, _, r_cluster) = cluster_of(r1);
    let pinned_by_p = ca_fingerprint(r_cluster.cas.last().unwrap());
    let lines = [
        followed_by(&enrolment.line, signed_by_itself),
        followed_by(&enrolment.line, for_another),
        CaLine { changed: at, ..CaLine::of(next.certificate().to_vec()) },
    ];
    for (told, line) in (1..).zip(lines) {
        let answer = double.tells(r1, News { list: theirs.list.clone(), line, follows: pinned_by_p });
        // That its members are who they are is proven by the CA that is pinned.
        assert!(matches!(answer, ControlAnswer::Members(_)), "{answer:?}");
        let refused = refusals();
        assert_eq!(refused.len(), told, "{refused:?}");
        let (last, peer) = (&refused[told - 1], &refused[told - 1]["fields"]["peer"]);
        assert_eq!((peer, &last["severity"]), (&json!(P_CAP), &json!("warning")), "{last}");
        assert!(
            text(&last["message"]).contains("ca_not_followed") || text(&last["message"]).contains("is not taken"),
            "{last}"
        );
        assert_eq!(pinned(r1, P_CAP).as_ref(), Ok(&before), "the pinned CA stays");
    }
    goes_on(r1, WORK);

    // What it has signed is followed, whatever was tried before.
    let done = p1.cli(["cluster", "rotate-ca", "--timeout", "120s"]);
    let present = done["ca"]["present"].clone();
    assert!(present != before && done["ca"]["rotation"].is_null(), "{done}");
    follows(r1, P_CAP, &present);
    goes_on(r1, WORK);
}
