//! What a person reads.

use super::*;

#[test]
fn lists_are_aligned_columns() {
    let agent = Agent::start();
    let vms = "\
NAME                     ROLE     STATE        HEALTH   PRIMARY         REPLICA         IN SYNC  LAG  RPO  UUID
VirtualMachine_Workload  replica  replicating  warning  p1.contoso.com  r2.contoso.com  r1, r2   14s  14s  \
         6f1c2a52-0b0f-4c6e-9f2e-3a51d0a1c001
";
    assert_eq!(agent.ask(&["vm", "list"]).out, vms);
    let nodes = "\
NODE  ID  ROLE   STATE  VM SERVICE  SETTINGS  REPLICAS  FREE     REASON
r1    1   voter  up     degraded    12        2         5.0 GiB  storage 'default' is full
";
    assert_eq!(agent.ask(&["node", "list"]).out, nodes);
    let settings = "\
revision 12

SETTING                   VALUE
apply_disk_limit          4
default_storage_location  -
node_down_after           5s
replication_enabled       true
";
    assert_eq!(agent.ask(&["settings", "show"]).out, settings);
}

#[test]
fn one_thing_is_its_facts() {
    let agent = Agent::start();
    let cluster = "\
cluster            Cluster-R
cap                r-broker-cap.contoso.com
node               r1
role               voter
owner              r1
term               3
cap address        10.0.0.50/24,fd00::50/64 port 7443, at r1
quorate            yes
settings revision  12
tolerates losses   0
ca                 abababababababababababababababababababababababababababababababab
warning            two voters survive no loss: add a witness

NODE  ID  ROLE     STATE    ADDRESS
r1    1   voter    up       10.0.0.11:7443
rw    9   witness  suspect  10.0.0.13:7443
";
    assert_eq!(agent.ask(&["cluster", "status"]).out, cluster);
    let vm = agent.ask(&["vm", "show", "web"]).out;
    for line in ["frozen for        1.500 ms", "testing interval  200 ms", "disk              vda 4.0 GiB"] {
        assert!(vm.lines().any(|other| other == line), "{line}: {vm}");
    }
}

#[test]
fn a_secret_stands_alone_and_what_is_said_of_it_is_talk() {
    let agent = Agent::start();
    let script = agent.ask(&["token", "create"]);
    assert_eq!((script.out.as_str(), script.err.as_str()), ("lf1.secret\n", ""));
    let person = agent.ask_as(Reader::Person, &["peer", "invite"]);
    assert_eq!(person.out, "lfp1.secret\n");
    assert!(person.err.contains("good for one cluster until 2025-11-22T18:42:41.250Z"), "{}", person.err);
}

#[test]
fn every_read_has_a_table() {
    let agent = Agent::start();
    for line in [
        "broker status",
        "node show r1",
        "settings history",
        "authorization list",
        "peer list",
        "token list",
        "vm locate a",
        "point list a",
        "point export a /tmp/out",
        "authorization remove p.contoso.com",
        "vm disable a",
    ] {
        let done = agent.ask(&line.split(' ').collect::<Vec<_>>());
        assert_eq!((done.code, done.err.as_str()), (0, ""), "{line}");
        assert!(!done.out.is_empty() && !done.out.contains('{'), "{line}: {}", done.out);
    }
}
