//! Every request of every kind of caller, on real connections: what is not for it is refused and told, nothing moves.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::time::Duration;

use landfall_agent::drive::raft_wire::RaftFrame;
use landfall_kit::process::{Node, VmFolder, eventually, pair};
use landfall_proto::alpn::Alpn;
use landfall_proto::codec;
use landfall_proto::endpoint::Target;
use landfall_proto::frame;
use landfall_proto::id::{Epoch, MemberId, SenderEpoch, VmId};
use landfall_proto::message::control::{ControlAnswer, ControlRequest};
use landfall_proto::message::data::{Hello, Welcome};
use landfall_proto::model::Command;
use landfall_proto::verb::{Party, Verb};
use landfall_store::consensus::Rpc;

use crate::double::Double;
use crate::gossip::standing;
use crate::{LONG, SOON, cluster};

/// For one call.
const DEADLINE: Duration = Duration::from_secs(30);
/// Refused requests that are asked for one after the other.
const FLOOD: usize = 1000;

/// One of every control request, as the golden bytes have them.
fn requests() -> Vec<ControlRequest> {
    let mut file: &[u8] = include_bytes!("../../proto/tests/golden/control_request.bin");
    let mut requests = Vec::new();
    while let Some((length, rest)) = file.split_first_chunk::<4>() {
        let (bytes, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
        requests.push(codec::decode(bytes).expect("golden bytes"));
        file = rest;
    }
    requests
}

fn asks(double: &Double, node: &Node, request: &ControlRequest) -> Result<ControlAnswer, String> {
    let target = target(double, node.address().parse().unwrap());
    double.runtime.block_on(double.calls.call(&target, Alpn::Control, request, DEADLINE)).map_err(|e| e.to_string())
}

fn target(double: &Double, address: std::net::SocketAddr) -> Target {
    Target { cap: double.other.clone(), address, key: None }
}

/// Asks for everything, and says what was refused as not being for this caller.
fn tries(double: &Double, node: &Node, party: Party) {
    for request in requests() {
        let verb = Verb::of_control(&request);
        let answer = asks(double, node, &request).unwrap_or_else(|error| panic!("{verb:?} by {party:?}: {error}"));
        let not_allowed = matches!(&answer, ControlAnswer::Refused(refusal) if refusal.code == "not_allowed");
        assert_eq!(not_allowed, !verb.is_allowed(&[party]), "{verb:?} by {party:?}: {answer:?}");
    }
}

/// What a node that receives `vm` says to a session.
fn opens(double: &Double, node: &Node, hello: &Hello) -> Result<Welcome, String> {
    let mut address: std::net::SocketAddr = node.address().parse().unwrap();
    // The kit's nodes listen for data on the next port.
    address.set_port(address.port() + 1);
    let target = target(double, address);
    double.runtime.block_on(async {
        let mut session = double.calls.open(&target, Alpn::Data, DEADLINE).await.map_err(|error| error.to_string())?;
        let most = Alpn::Data.frame_max();
        frame::send(&mut session.send, hello, most).await.map_err(|error| error.to_string())?;
        frame::receive(&mut session.receive, most).await.map_err(|error| error.to_string())
    })
}

fn told(node: &Node, kind: &str, peer: &str) -> usize {
    node.events().iter().filter(|event| event["kind"] == kind && event["fields"]["peer"] == peer).count()
}

#[test]
fn every_caller_gets_what_is_its_own_and_every_refusal_is_told() {
    let r = cluster("R", &["r1", "r2", "r3"]).witness("rw").start();
    let p = cluster("P", &["p1"]).start();
    pair(&p, &r);
    let (r1, p1) = (r.first(), p.first());
    r1.cli(["settings", "set", "replication_enabled=true", "copies=1"]);
    let folder = VmFolder::new("web").disk("vda", 1 << 20, 1);
    let vm = VmId(folder.uuid());
    folder.create_in(&p1.vm_path()).unwrap();
    eventually(SOON, "the VM to be found", || {
        let shown = p1.try_cli(["vm", "show", "web"]).map_err(|failure| failure.to_string())?;
        if shown["fault"].is_null() { Ok(()) } else { Err(shown.to_string()) }
    });
    p1.cli(["vm", "enable", "web", "--to", r.cap(), "--recovery-points", "4", "--timeout", "120s"]);
    let before = standing(r1);
    let holder = before[2].as_str().unwrap().to_owned();
    let owner = r.node(before[0].as_str().unwrap());

    let any = || "127.0.0.1:0".parse().unwrap();
    let member = r.nodes().iter().find(|n| !n.is_witness() && n.name() != holder && n.name() != owner.name()).unwrap();
    let (bad, witness, peer) =
        (Double::of(member, r1, any()), Double::of(r.node("rw"), r1, any()), Double::of(p1, r1, any()));
    tries(&bad, owner, Party::Member);
    tries(&witness, owner, Party::Witness);
    tries(&peer, owner, Party::Paired);
    assert_eq!(standing(r1), before, "nothing of all this moved anything");

    // Commands that are another's to say: each is refused by the owner, whoever it is given to.
    let id = |double: &Double, name: &str| double.list.members.iter().find(|m| m.node.as_str() == name).unwrap().id;
    let epoch = Epoch::from_number(before[3].as_u64().unwrap());
    let others: Vec<Command> = vec![
        Command::Claim(bad.me),
        Command::Assign { vm, epoch, to: bad.me },
        Command::Seed { vm, epoch, to: bad.me },
        Command::Copy { vm, epoch, to: Some(bad.me) },
        Command::Acknowledged { vm, epoch },
        Command::Leave { vm, epoch, member: id(&bad, &holder) },
        Command::ClaimSender { vm, member: id(&bad, &holder), epoch: SenderEpoch::from_number(1), down: true },
    ];
    for command in others {
        let propose = ControlRequest::Propose { request: None, command: Box::new(command.clone()) };
        let answer = asks(&bad, owner, &propose).unwrap();
        let refused =
            matches!(&answer, ControlAnswer::Applied { answer: Err(refusal), .. } if refusal.code == "not_allowed");
        assert!(refused, "{command:?}: {answer:?}");
    }
    assert_eq!(standing(r1), before);

    // Data: a member sends nothing, a witness copies nothing, neither passes anything on to whom it does not belong.
    let send =
        Hello::Send { vm, epoch, sender_epoch: SenderEpoch::from_number(u64::MAX >> 1), disks: vec![], known: vec![] };
    let copy = Hello::Copy { vm, epoch };
    for (double, hello) in [(&bad, &send), (&witness, &copy), (&witness, &send), (&peer, &copy)] {
        let welcome = opens(double, r.node(&holder), hello);
        assert!(matches!(&welcome, Ok(Welcome::Refused(refusal)) if refusal.code == "not_allowed"), "{welcome:?}");
    }
    assert!(opens(&bad, r.node(&holder), &copy).is_err(), "a copy for a node that was not told to have one");

    for double_name in [member.name(), "rw"] {
        assert!(told(owner, "request_refused", double_name) > 0, "{double_name}: {:?}", owner.events());
    }
    assert!(told(r.node(&holder), "session_refused", "rw") > 0);
    flooded(&peer, owner);
    strangers(&r, owner, member, &bad);
}

/// A thousand refusals are a few events, which say how many were left out.
fn flooded(peer: &Double, node: &Node) {
    let name = peer.own_name.clone();
    let others = || node.events().iter().filter(|event| event["kind"] != "request_refused").count();
    let (before, kept) = (told(node, "request_refused", &name), others());
    for _ in 0..FLOOD {
        asks(peer, node, &ControlRequest::ProbeFor(MemberId::from_number(1))).unwrap();
    }
    let after = told(node, "request_refused", &name);
    assert!(before >= 3 && after <= before + 3, "{before} events before, {after} after {FLOOD} refusals");
    assert!(others() >= kept, "what else happened is still told");
}

/// Whoever has no certificate, or was removed, gets no connection, which is told as well.
fn strangers(r: &landfall_kit::process::Cluster, node: &Node, removed: &Node, double: &Double) {
    removed.kill_agent();
    eventually(LONG, "the removal", || node.try_cli(["node", "remove", removed.name()]).map_err(|f| f.to_string()));
    let error = eventually(SOON, "the removed node to be out", || match asks(double, node, &ControlRequest::Probe) {
        Err(error) => Ok(error),
        Ok(answer) => Err(format!("{answer:?}")),
    });
    assert!(error.contains("removed") || error.contains("refuse"), "{error}");
    eventually(SOON, "the removed node to be told of", || {
        let name = format!("{}.contoso.test", removed.name());
        if told(node, "connection_refused", &name) > 0 { Ok(()) } else { Err(format!("{:?}", node.events())) }
    });
    let stranger = Double::stranger(r.first());
    assert!(asks(&stranger, node, &ControlRequest::Probe).is_err());
}

/// A leader's call without entries, as bytes: that of `speaker` in vote term 90.
fn heartbeat(speaker: MemberId) -> RaftFrame {
    let row = [codec::FORMAT, 90, 1, speaker.number() as u8, 1, 0, 0];
    let payload = [(row.len() as u32).to_le_bytes().as_slice(), &row].concat();
    RaftFrame { rpc: Rpc::Append, payload }
}

#[test]
fn a_member_speaks_in_consensus_for_itself_alone() {
    let r = cluster("R", &["r1", "r2", "r3"]).start();
    let r1 = r.first();
    let term = r1.cli(["broker", "status"])["term"].clone();
    r.node("r2").lose();
    let double = Double::of(r.node("r2"), r1, "127.0.0.1:0".parse().unwrap());
    let third = double.member("r3");
    let says = |frame: RaftFrame| -> Result<RaftFrame, String> {
        let target = target(&double, r1.address().parse().unwrap());
        let answer = double.runtime.block_on(double.calls.call(&target, Alpn::Raft, &frame, SOON));
        answer.map_err(|error| error.to_string())
    };
    // Would it count, r1 followed r3 from here on, which knows nothing of it.
    says(heartbeat(third)).unwrap_err();
    says(RaftFrame { rpc: Rpc::Vote, payload: vec![1, 2, 3] }).unwrap_err();
    assert!(told(r1, "request_refused", "r2") > 0, "{:?}", r1.events());
    assert_eq!(r1.cli(["broker", "status"])["term"], term, "the owner goes on");
}

/// The user of those who are nobody (Debian's `nobody`).
const NOBODY: u32 = 65534;

#[test]
fn another_user_of_the_machine_is_turned_away_and_told_of() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("\n*** SKIPPED another_user_of_the_machine: only root can start a program as somebody else\n");
        return;
    }
    let r = cluster("R", &["r1"]).start();
    let node = r.first();
    // As if somebody had opened the socket to all.
    for path in node.socket().ancestors().take_while(|path| *path != std::env::temp_dir()) {
        fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("landfall");
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_landfall"), &program).unwrap();
    let mut command = std::process::Command::new(&program);
    command.arg("--socket").arg(node.socket()).args(["settings", "set", "copies=1"]).uid(NOBODY).gid(NOBODY);
    let output = command.current_dir(folder.path()).output().unwrap();
    assert!(!output.status.success(), "{output:?}");
    assert!(told(node, "local_refused", "uid 65534") > 0, "{:?}", node.events());
    let revision = node.cli(["settings", "show"])["revision"].clone();
    assert_eq!(revision, serde_json::json!(0), "nothing was set");
}
