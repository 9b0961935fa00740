//! Golden bytes: what each message and each stored value looks like, for ever or until the format version rises.
//!
//! `LANDFALL_WRITE_GOLDEN=1 cargo test -p landfall-proto golden` writes the files anew. A difference in review is a
//! format change: agents of both versions meet in every upgrade.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::path::PathBuf;

use landfall_proto::codec;
use landfall_proto::id::{
    DiskTarget, Epoch, Fingerprint, Fqdn, MemberId, NodeName, Position, RequestId, Revision, Root, SenderEpoch, Term,
    UnixMillis, VmId,
};
use landfall_proto::message::broker::{BrokerAnswer, BrokerRequest, Location, PassedOver, Place};
use landfall_proto::message::control::{
    CaKey, Compared, Consistency, ControlAnswer, ControlRequest, DiskDifference, FAULTS_MAX, Figures, HandOffWish,
    HolderFigures, InFlight, LocalVm, News, Point, PointState, ProofFigures, Reach, RunFigures, SenderFigures,
    StagingFaults, Statistics, Traffic,
};
use landfall_proto::message::data::{
    ChangeSet, Content, CopyAnswer, CopyListing, CopyRequest, DataAnswer, DataRequest, Extent, Hello, Packed, Staged,
    Tip, Welcome,
};
use landfall_proto::message::join::{self, Ask, Invitation, JoinAnswer, JoinRequest};
use landfall_proto::message::leaves::{LeafAnswer, LeafRequest};
use landfall_proto::message::pass::{PassAnswer, PassHello, PassRequest};
use landfall_proto::model::{
    Adapter, AdapterKind, Addresses, Answer, AuthorizationEntry, CaLine, CapAddress, Command, Departure,
    DepartureState, DiskSpec, FailoverKind, FailoverStep, Family, Found, Frequency, HandOff, Handover, Joiner, Launch,
    LaunchImage, LogMark, Loss, Member, MemberList, NetworkChange, NetworkRule, Outcome, Peer, PointName, Primary,
    Promotion, PromotionId, PromotionState, Proposal, Replica, Return, Right, Rival, Side, Stop, Succession, TestRun,
    Ticket, TicketKind, Timing, VmSpec,
};
use landfall_proto::refusal::{Class, Refusal};
use serde::Serialize;
use serde::de::DeserializeOwned;

fn back() -> Return {
    let point = PointName { sequence: 12, root: Root([6; 32]) };
    Return { id: promotion_id(), point, branch: true }
}

fn rival() -> Rival {
    let Return { id, point, .. } = back();
    let (from, since) = ("r-broker-cap.contoso.com".parse().unwrap(), UnixMillis(22));
    Rival { id, parent: None, from, point, since, keep: Some(Side::Here), yielded: false }
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// A file: each value behind its length, so that a reviewer's diff shows which one changed.
fn file<T: Serialize>(samples: &[T]) -> Vec<u8> {
    samples.iter().flat_map(|sample| landfall_proto::frame::encode(sample, 1 << 20).unwrap()).collect()
}

fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, samples: &[T]) {
    let path = folder().join(format!("{name}.bin"));
    let now = file(samples);
    if std::env::var_os("LANDFALL_WRITE_GOLDEN").is_some() {
        std::fs::create_dir_all(folder()).unwrap();
        std::fs::write(&path, &now).unwrap();
    }
    let golden = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    // What old bytes mean comes first: that is what breaks an upgrade.
    let old: Vec<T> = parts(&golden)
        .iter()
        .map(|bytes| codec::decode(bytes).unwrap_or_else(|error| panic!("{name}: old bytes cannot be read: {error}")))
        .collect();
    assert_eq!(old, samples, "{name}: old bytes mean something else now");
    assert!(golden == now, "{name}: the encoding has changed");
}

/// As [`check`], for an enum: every variant must be among the samples.
fn check_all<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, samples: &[T]) {
    check(name, samples);
    let Err(error) = codec::decode::<T>(&[codec::FORMAT, 250]) else { panic!("{name} has 250 variants?") };
    let text = error.to_string();
    let count: u8 = text
        .split_once("variant index 0 <= i < ")
        .and_then(|(_, rest)| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok())
        .unwrap_or_else(|| panic!("{name}: {text}"));
    let seen: BTreeSet<u8> = samples.iter().map(|sample| codec::encode(sample).unwrap()[1]).collect();
    assert_eq!(seen, (0..count).collect(), "{name}: variants without a sample");
}

fn parts(mut file: &[u8]) -> Vec<Vec<u8>> {
    let mut parts = Vec::new();
    while let Some((length, rest)) = file.split_first_chunk::<4>() {
        let (part, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
        parts.push(part.to_vec());
        file = rest;
    }
    parts
}

/// Every golden message, as raw material for mutations.
pub fn all() -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for path in files {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        all.extend(parts(&std::fs::read(&path).unwrap()).into_iter().map(|bytes| (name.clone(), bytes)));
    }
    all
}

fn vm() -> VmId {
    "6f1c2a52-0b0f-4c6e-9f2e-3a51d0a1c001".parse().unwrap()
}

fn id(number: u64) -> MemberId {
    MemberId::from_number(number)
}

fn at(number: u64) -> Position {
    Position::new(1, number)
}

fn epoch(number: u64) -> Epoch {
    Epoch::from_number(number)
}

fn node(name: &str) -> NodeName {
    name.parse().unwrap()
}

fn cap() -> Fqdn {
    "r-broker-cap.contoso.com".parse().unwrap()
}

fn request() -> RequestId {
    RequestId { session: 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef, sequence: 300 }
}

fn refusal() -> Refusal {
    Refusal::new(Class::Refused, "stale_epoch", "epoch 7 is over").field("epoch").remedy("locate the replica again")
}

fn member() -> Member {
    Member {
        id: id(70_000),
        node: node("r2"),
        fqdn: "r2.contoso.com".parse().unwrap(),
        key: Fingerprint([0xa5; 32]),
        control: "10.0.0.12:7443".parse().unwrap(),
        data: "[fd00::12]:7444".parse().unwrap(),
        witness: false,
    }
}

fn cap_address() -> CapAddress {
    let addresses = vec!["10.0.0.50/24".parse().unwrap(), "fd00::50/64".parse().unwrap()];
    CapAddress::new(addresses, "eth0".parse().unwrap(), 7443).unwrap()
}

fn list() -> MemberList {
    MemberList {
        cap: cap(),
        position: at(71_000),
        members: vec![member(), Member { witness: true, ..member() }],
        cap_addresses: cap_address().sockets().collect(),
    }
}

fn peer() -> Peer {
    Peer {
        cluster: "Cluster-P".parse().unwrap(),
        ca: vec![0x30, 0x82, 1, 2],
        line: ca_line(),
        list: list(),
        confirmed_at: UnixMillis(1_795_305_600_000),
    }
}

fn succession() -> Succession {
    Succession { ca: vec![0x30, 4], warrant: vec![0x30, 5] }
}

fn ca_line() -> CaLine {
    CaLine { first: vec![0x30, 0x82, 1, 2], after: vec![succession()], rotating: true, changed: at(70_000) }
}

fn news() -> Box<News> {
    Box::new(News { list: list(), line: ca_line(), follows: Fingerprint([5; 32]) })
}

fn found() -> Found {
    Found {
        cluster: "Cluster-R".parse().unwrap(),
        cap: cap(),
        cluster_id: 99,
        ca: vec![0x30, 3],
        timing: Timing::STANDARD,
        cap_address: Some(cap_address()),
        founder: Member { id: Found::FOUNDER, ..member() },
    }
}

fn disk() -> DiskSpec {
    DiskSpec { target: "vda".parse::<DiskTarget>().unwrap(), bytes: 4 << 30 }
}

fn addresses() -> Addresses {
    Addresses {
        addresses: vec!["10.1.0.5/16".parse().unwrap(), "fd00:1::5/64".parse().unwrap()],
        gateways: vec!["10.1.0.1".parse().unwrap(), "fe80::1".parse().unwrap()],
        dns: vec!["10.1.0.53".parse().unwrap()],
    }
}

fn network_changes() -> Vec<NetworkChange> {
    let (adapter, from) = (|| "eth0".to_owned(), || "fd00:1::/48".parse().unwrap());
    vec![
        NetworkChange::Set { vm: vm(), adapter: adapter(), addresses: addresses() },
        NetworkChange::Clear { vm: vm(), adapter: adapter(), families: vec![Family::Ipv4, Family::Ipv6] },
        NetworkChange::AddRule(NetworkRule { peer: cap(), from: from(), to: "fd00:9::/48".parse().unwrap() }),
        NetworkChange::RemoveRule { peer: cap(), from: from() },
    ]
}

fn spec() -> VmSpec {
    let adapter =
        |kind, name: &str, network| Adapter { name: name.into(), kind, mac: "52:54:00:aa:bb:01".into(), network };
    VmSpec {
        id: vm(),
        name: "VirtualMachine_Workload".parse().unwrap(),
        disks: vec![disk()],
        adapters: vec![
            adapter(AdapterKind::Synthetic, "eth0", addresses()),
            adapter(AdapterKind::Legacy, "eth1", Addresses::default()),
        ],
        launch: Launch {
            command: vec!["./guest".to_owned(), "disk.raw".to_owned()],
            images: vec![LaunchImage { target: disk().target, path: "disk.raw".to_owned(), raw: true }],
        },
    }
}

fn location() -> Location {
    Location {
        node: node("r2"),
        member: id(3),
        data: "10.0.0.12:7444".parse().unwrap(),
        epoch: epoch(44),
        position: at(45),
    }
}

fn place() -> Place {
    Place {
        request: request(),
        vm: spec(),
        frequency: Frequency::FiveMinutes,
        recovery_points: 24,
        instead_of: Some(epoch(9)),
        lineage: Some(promotion_id()),
    }
}

fn replica() -> Replica {
    Replica {
        vm: spec(),
        primary: "p-broker-cap.contoso.com".parse().unwrap(),
        trust_group: "T".parse().unwrap(),
        storage: "default".parse().unwrap(),
        frequency: Frequency::HalfMinute,
        recovery_points: 4,
        holder: id(2),
        in_sync: [id(2), id(5)].into(),
        epoch: epoch(44),
        seeding: Some(id(6)),
        acknowledged: true,
        handover: Some(Handover { to: id(5), since: UnixMillis(5), begun: at(70) }),
        joiner: Some(Joiner { member: id(7), begun: at(71) }),
        stopped: Some(Stop::AuthorizationRemoved),
        created_at: UnixMillis(4),
        paused: Some(UnixMillis(6)),
    }
}

fn primary() -> Primary {
    Primary {
        vm: spec(),
        to: cap(),
        frequency: Frequency::QuarterHour,
        recovery_points: 0,
        sender: Some(id(1)),
        sender_epoch: SenderEpoch::from_number(8),
        rivals: [id(2)].into(),
        stopped: Some(Stop::PeerRemoved),
        created_at: UnixMillis(4),
        paused: Some(UnixMillis(7)),
        resync: Some(at(72_000)),
        starts_at: Some(UnixMillis(8)),
        limit: Some("mon-fri 08:00-18:00=5, else=unlimited".parse().unwrap()),
        excluded: vec!["vdb".parse().unwrap()],
    }
}

fn ticket(kind: TicketKind) -> Ticket {
    Ticket { id: 1 << 40, secret: [7; 32], kind, expires_at: UnixMillis(6), used_by: Some(Fingerprint([1; 32])) }
}

fn entry() -> AuthorizationEntry {
    AuthorizationEntry {
        primary: "*.contoso.com".parse().unwrap(),
        storage: "default".parse().unwrap(),
        trust_group: "T".parse().unwrap(),
    }
}

fn point() -> Point {
    Point {
        sequence: 12,
        taken_at: UnixMillis(1_795_305_600_000),
        consistency: Consistency::Crash,
        bytes: 1 << 20,
        root: Root([2; 32]),
        copies: vec![node("r1"), node("r2")],
        state: PointState::Listed,
        stays: true,
        verified_at: Some(UnixMillis(1_795_305_700_000)),
    }
}

fn tip() -> Tip {
    Tip { sequence: 12, root: Root([3; 32]) }
}

fn placing() -> Command {
    Command::Place {
        vm: Box::new(spec()),
        primary: cap(),
        holder: id(2),
        frequency: Frequency::HalfMinute,
        recovery_points: 4,
        instead_of: Some(epoch(3)),
        lineage: Some(promotion_id()),
    }
}

fn commands() -> Vec<Command> {
    let (vm_id, member_id, addresses) = (vm(), id(3), (member().control, member().data));
    let placing = placing();
    let joining = Command::Join {
        ticket: 5,
        key: Fingerprint([4; 32]),
        node: node("r3"),
        fqdn: "r3.contoso.com".parse().unwrap(),
        control: addresses.0,
        data: addresses.1,
    };
    let changes = BTreeMap::from([("a".to_owned(), Some("1".to_owned())), ("b".to_owned(), None)]);
    let mut commands = vec![
        Command::Found(Box::new(found())),
        Command::Claim(id(1)),
        Command::Probe,
        Command::AddTicket(ticket(TicketKind::Join { witness: true, replaces: Some(node("r1")) })),
        Command::AddTicket(ticket(TicketKind::Pair)),
        Command::RevokeTicket(5),
        joining,
        Command::Readdress { member: id(3), control: addresses.0, data: addresses.1 },
        Command::Remove(id(3)),
        Command::Set { changes, expect: Some(Revision::from_number(6)), by: "root".into() },
        Command::Authorize(entry()),
        Command::Deauthorize("*".parse().unwrap()),
        Command::Pair { peer: Box::new(peer()), ticket: Some((5, Fingerprint([4; 32]))) },
        Command::Relist(list()),
        Command::Unpair(cap()),
        placing,
        Command::Respecify { vm: Box::new(spec()), primary: cap() },
        Command::Copy { vm: vm_id, epoch: epoch(1), to: Some(id(2)) },
        Command::Admit { vm: vm_id, epoch: epoch(1), member: id(2), begun: at(9) },
        Command::Leave { vm: vm_id, epoch: epoch(1), member: id(3) },
        Command::Acknowledged { vm: vm_id, epoch: epoch(1) },
        Command::Handover { vm: vm_id, epoch: epoch(1), to: Some(id(2)) },
        Command::Assign { vm: vm_id, epoch: epoch(1), to: id(2) },
        Command::Seed { vm: vm_id, epoch: epoch(1), to: id(2) },
        Command::Seeded { vm: vm_id, epoch: epoch(1) },
        Command::RemoveReplica { vm: vm_id, primary: Some(cap()) },
        Command::Enable {
            vm: Box::new(spec()),
            to: cap(),
            frequency: Frequency::HalfMinute,
            recovery_points: 4,
            starts_at: Some(UnixMillis(9)),
            limit: Some("0.5".parse().unwrap()),
            excluded: vec!["vdb".parse().unwrap()],
        },
        Command::Disable(vm_id),
        Command::Reshape(Box::new(spec())),
        Command::ClaimSender { vm: vm_id, member: member_id, epoch: SenderEpoch::from_number(4), down: true },
        Command::ReleaseSender { vm: vm_id, member: member_id },
        Command::Pause(vm_id),
        Command::Resume(vm_id),
        Command::Resync(vm_id),
        Command::Failover { vm: vm_id, step: Box::new(FailoverStep::Depart { id: promotion_id() }) },
        Command::Network(Box::new(network_changes()[0].clone())),
        Command::Adjust {
            vm: vm_id,
            frequency: Some(Frequency::QuarterHour),
            recovery_points: Some(3),
            limit: Some("5".parse().unwrap()),
        },
        Command::Yield(member_id),
        Command::Drain { member: member_id, on: true },
        Command::Mark([(member_id, LogMark { vote: 4, index: 300 })].into()),
    ];
    commands.extend(ca_commands());
    commands.push(Command::HalfEnded { vm: vm_id, cap: cap(), at: Position::new(3, 71) });
    commands
}

fn ca_commands() -> [Command; 5] {
    let ca = Fingerprint([6; 32]);
    [
        Command::RotateCa(Box::new(succession())),
        Command::Renewed { member: id(3), ca },
        Command::Followed { cap: cap(), ca },
        Command::RetireCa { ca, give_up: true },
        Command::Follow { cap: cap(), line: Box::new(ca_line()) },
    ]
}

fn promotion_id() -> PromotionId {
    PromotionId(7 << 100)
}

fn point_name() -> PointName {
    PointName { sequence: 12, root: Root([3; 32]) }
}

fn failover_steps() -> Vec<FailoverStep> {
    let (epoch, id, point, order, from) = (epoch(4), promotion_id(), point_name(), at(9), cap());
    vec![
        FailoverStep::Test { epoch, id, point },
        FailoverStep::EndTest { id },
        FailoverStep::Promote { epoch, id, point, loss: Loss { millis: 1500, bytes: 4096 } },
        FailoverStep::Start { id },
        FailoverStep::Complete { id },
        FailoverStep::Withdraw { id },
        FailoverStep::Withdrawn { id },
        FailoverStep::Depart { id },
        FailoverStep::Release { id, point },
        FailoverStep::Recall { id },
        FailoverStep::Departed { id },
        FailoverStep::Reinstate { id },
        FailoverStep::Take { epoch, id, order, from: from.clone(), point },
        FailoverStep::Decline { id, order, from: from.clone() },
        FailoverStep::Reverse { id },
        FailoverStep::Reversed { id },
        FailoverStep::Detach { id },
        FailoverStep::Return { back: back(), parent: Some(id), from },
        FailoverStep::Returned { id },
        FailoverStep::Branch(Box::new(rival())),
        FailoverStep::Resolve { id, keep: Side::There },
        FailoverStep::Yielded { id },
        FailoverStep::Merged { id },
        FailoverStep::Abandon { id, decided_there: true },
        FailoverStep::Account { before: at(9), from: cap(), contested: true },
        FailoverStep::Learn { right: Right::Taken { id, order, point } },
        FailoverStep::Decide {
            keep: Side::Here,
            right: Right::Released { id, order, point },
            begin: Some((epoch, point)),
        },
    ]
}

#[test]
fn failovers() {
    check_all("failover_step", &failover_steps());
    let promotion = |kind, order, state| Promotion {
        id: promotion_id(),
        parent: Some(PromotionId(6)),
        kind,
        point: point_name(),
        holder: id(2),
        order,
        state,
        started_at: UnixMillis(5),
        loss: Loss { millis: 1500, bytes: 4096 },
    };
    let promotions = [
        promotion(FailoverKind::Planned, Some(at(9)), PromotionState::Running),
        promotion(FailoverKind::Unplanned, None, PromotionState::Withdrawing),
        promotion(FailoverKind::Unplanned, None, PromotionState::Completed),
        promotion(FailoverKind::Planned, Some(at(9)), PromotionState::Reversing),
        promotion(FailoverKind::Unplanned, None, PromotionState::Abandoning),
    ];
    check("promotion", &promotions);
    let test = TestRun { id: promotion_id(), point: point_name(), node: id(2), started_at: UnixMillis(5) };
    check("test_run", &[test]);
    let point = point_name();
    let states = [
        DepartureState::Preparing,
        DepartureState::Released(point),
        DepartureState::Recalling(point),
        DepartureState::Departed(point),
    ];
    check_all("departure_state", &states);
    let departure = |state| Departure { id: promotion_id(), order: at(9), state, started_at: UnixMillis(5) };
    check("departure", &states.map(departure));
    check_all("hand_off", &[HandOff::Taken, HandOff::Declined, HandOff::Open]);
    check_all("hand_off_wish", &[HandOffWish::Take, HandOffWish::Decline, HandOffWish::Look]);
}

#[test]
fn commands_and_outcomes() {
    let proposal = |command| Proposal {
        request: Some(request()),
        at: UnixMillis(1_795_305_600_000),
        term: Some(Term::from_number(17)),
        command,
    };
    check("proposal", &commands().into_iter().map(proposal).collect::<Vec<_>>());
    check_all("command", &commands());
    check_all("network_change", &network_changes());
    let outcomes = [
        Outcome::Done,
        Outcome::Claimed { term: Term::from_number(1), vacant: true },
        Outcome::Joined(id(2)),
        Outcome::Set(Revision::from_number(3)),
        Outcome::Stopped(vec![vm()]),
        Outcome::Placed { replica: Box::new(replica()), created: true },
        Outcome::Epoch(epoch(4)),
        Outcome::SenderEpoch(SenderEpoch::from_number(5)),
        Outcome::HandOff(HandOff::Taken),
        Outcome::Right(Right::NotTaken),
    ];
    check_all("outcome", &outcomes);
    check::<Answer>("answer", &[Ok(Outcome::Done), Err(refusal())]);
    let classes = [Class::Failed, Class::Usage, Class::Refused, Class::NotFound, Class::Unreachable];
    check_all("class", &classes);
}

#[test]
fn nouns_of_the_committed_state() {
    check("member_list", &[list()]);
    check("peer", &[peer()]);
    check("found", &[found()]);
    check("replica", &[replica()]);
    check("primary", &[primary()]);
    check("authorization", &[entry()]);
}

#[test]
fn broker_messages() {
    let requests = [
        BrokerRequest::Probe,
        BrokerRequest::Place(Box::new(place())),
        BrokerRequest::Locate { vm: vm(), at_least: at(3) },
        BrokerRequest::Remove { request: request(), vm: vm() },
        BrokerRequest::Respecify { request: request(), vm: Box::new(spec()) },
    ];
    check_all("broker_request", &requests);
    let passed_over = vec![PassedOver { node: node("r1"), reason: "not drawn".into() }];
    let answers = [
        BrokerAnswer::Ready { cap: cap(), agents: vec![member().control], authorized: Err(refusal()) },
        BrokerAnswer::Placed { at: location(), passed_over },
        BrokerAnswer::Located(location()),
        BrokerAnswer::Done { position: at(4) },
        BrokerAnswer::Owner { control: member().control },
        BrokerAnswer::Refused(refusal()),
    ];
    check_all("broker_answer", &answers);
}

#[test]
fn control_requests() {
    let term = Term::from_number(17);
    let requests = [
        ControlRequest::Propose { request: Some(request()), command: Box::new(Command::Probe) },
        ControlRequest::Place { primary: cap(), place: Box::new(place()) },
        ControlRequest::Probe,
        ControlRequest::ProbeFor(id(2)),
        ControlRequest::AwaitRegistered { term, vm: vm(), epoch: epoch(4), position: at(5) },
        ControlRequest::Moved { vm: vm(), to: location() },
        ControlRequest::Members(news()),
        ControlRequest::Figures(vm()),
        ControlRequest::AwaitSettings(Revision::from_number(6)),
        ControlRequest::Vms,
        ControlRequest::Confirm,
        ControlRequest::Export { vm: vm(), point: Some(3), folder: "/tmp/out".into() },
        ControlRequest::Resumed(vm()),
        ControlRequest::ResetStatistics(vm()),
        ControlRequest::Clock,
        ControlRequest::HandOff {
            vm: vm(),
            id: promotion_id(),
            order: at(9),
            point: point_name(),
            wish: HandOffWish::Decline,
        },
        ControlRequest::Runs(vm()),
        ControlRequest::Run(vm()),
        ControlRequest::ReachBack,
        ControlRequest::Seed { vm: vm(), folder: "/tmp/seed".into(), import: true },
        ControlRequest::Renew { public_key: vec![0x30, 0x2a] },
        ControlRequest::Prove { vm: vm(), point: Some(12), begin: true },
        ControlRequest::Difference { vm: vm(), from: 3, to: 5, limit: 100 },
        ControlRequest::Return { vm: vm(), back: back(), parent: None, check: true },
        ControlRequest::Branch { vm: vm(), id: promotion_id(), parent: None, point: back().point },
        ControlRequest::Branches(vm()),
        ControlRequest::Abandon { vm: vm(), id: promotion_id(), look: true },
        ControlRequest::GiveUp { vm: vm(), id: promotion_id() },
        ControlRequest::DropBranch { vm: vm(), id: promotion_id(), look: false },
        ControlRequest::HandOver { to: Some(id(2)) },
        ControlRequest::Hears,
        ControlRequest::CouldHoldAddress,
        ControlRequest::Rights { vm: vm(), before: at(9), contested: false },
        ControlRequest::Recall,
        ControlRequest::RotateCa { dry_run: true },
        ControlRequest::KeepCa { term, step: Box::new(succession()), key: CaKey(vec![0x30, 0x2e]) },
        ControlRequest::AskCa(Fingerprint([6; 32])),
    ];
    check_all("control_request", &requests);
}

#[test]
fn control_answers() {
    let term = Term::from_number(17);
    let answers = [
        ControlAnswer::Applied { answer: Ok(Outcome::Done), position: at(4) },
        ControlAnswer::Broker(Box::new(BrokerAnswer::Located(location()))),
        ControlAnswer::Alive { faults: staging_faults() },
        ControlAnswer::Reached(true),
        ControlAnswer::Done,
        ControlAnswer::Members(news()),
        ControlAnswer::Figures(Box::new(figures())),
        ControlAnswer::Vms(vec![LocalVm { vm: spec(), replica: true, running: false, fault: Some(refusal()) }]),
        ControlAnswer::Confirmed { term, position: at(9) },
        ControlAnswer::Exported { node: node("r1"), point: 3, files: vec![("vda".into(), 1 << 30, Root([9; 32]))] },
        ControlAnswer::Refused(refusal()),
        ControlAnswer::Clock(UnixMillis(20)),
        ControlAnswer::ReachedBack {
            control: Reach { mtu: Some(1452), fault: None },
            data: Reach { mtu: None, fault: Some("silent".into()) },
        },
        ControlAnswer::HandOff(HandOff::Open),
        ControlAnswer::Runs(Some(true)),
        ControlAnswer::Run(Some(Box::new(RunFigures {
            step: "running".to_owned(),
            run_vm: Some(vm()),
            prepared_bytes: 1 << 20,
            fault: Some(refusal()),
        }))),
        ControlAnswer::Seeded {
            node: node("r1"),
            taken_at: UnixMillis(21),
            files: vec![("vda".into(), 1 << 30, Root([9; 32]))],
        },
        ControlAnswer::Proof(proof()),
        ControlAnswer::Difference(vec![DiskDifference {
            target: "vda".into(),
            from_bytes: 1 << 30,
            to_bytes: 1 << 30,
            differing_bytes: 8192,
            ranges: vec![(4096, 8192)],
            left_out: 2,
        }]),
        ControlAnswer::Return { blockers: vec![refusal()] },
        ControlAnswer::Branch(Some((promotion_id(), None, back().point))),
        ControlAnswer::HandedOver { owner: id(2), term, gap_ms: 90 },
        ControlAnswer::Hears(true),
        ControlAnswer::Renewed(vec![0x30, 0x82]),
        ControlAnswer::Right(Right::Branch { id: promotion_id(), parent: None, point: point_name() }),
        ControlAnswer::Recalled { noted: Some(LogMark { vote: 4, index: 300 }), led: None },
        ControlAnswer::Rotates { missed: vec![node("r3")], position: at(9) },
        ControlAnswer::CaKey(CaKey(vec![0x30, 0x2e])),
    ];
    check_all("control_answer", &answers);
}

fn staging_faults() -> StagingFaults {
    let storage = [("default".parse().unwrap(), "read-only file system".into())];
    StagingFaults::new(storage, [(vm(), "the manifest is damaged".into())])
}

#[test]
fn an_answer_with_every_fault_that_it_may_hold_fits_its_frame() {
    let why = "ü".repeat(300);
    let storage = (0..300).map(|at| (format!("{at:0>63}").parse().unwrap(), why.clone()));
    let replicas = (0..300).map(|at| (VmId(uuid::Uuid::from_u128(at)), why.clone()));
    let faults = StagingFaults::new(storage, replicas);
    assert_eq!((faults.storage.len(), faults.replicas.len()), (FAULTS_MAX, FAULTS_MAX));
    let bytes = codec::encode(&ControlAnswer::Alive { faults }).unwrap();
    assert!(bytes.len() <= landfall_proto::alpn::Alpn::Control.frame_max(), "{}", bytes.len());
}

fn proof() -> ProofFigures {
    ProofFigures {
        point: 12,
        root: Root([2; 32]),
        bytes: 1 << 30,
        read_bytes: 1 << 20,
        verified_at: Some(UnixMillis(21)),
        damage: Some("disk vda, bytes 0 to 65536".into()),
        repaired: Some("disk vda, bytes 65536 to 131072, out of the copy on r2".into()),
    }
}

fn figures() -> Figures {
    let points = [PointState::Listed, PointState::Unconfirmed, PointState::Unreachable, PointState::Damaged]
        .map(|state| Point { state, consistency: Consistency::Off, ..point() });
    let holder = HolderFigures {
        branches: vec![promotion_id()],
        epoch: epoch(4),
        points: points.into(),
        received: Traffic { sent_bytes: 1 << 33, wire_bytes: 1 << 32 },
        fault: Some("disk full".into()),
        damage: Some("point 12: disk vda".into()),
    };
    let sender = SenderFigures {
        epoch: SenderEpoch::from_number(3),
        activity: "sending".into(),
        acknowledged: Some(point()),
        receiver: Some(node("r1")),
        traffic: Traffic { sent_bytes: 1 << 34, wire_bytes: 1 << 35 },
        missed_cycles: 2,
        freeze: Some("cloned".into()),
        frozen_micros: 900,
        source: Some("index".into()),
        fault: Some(refusal()),
        testing_interval_ms: Some(200),
        assignment: Some(epoch(4)),
        unconfirmed: Some(point()),
        statistics: Statistics {
            since: UnixMillis(10),
            until: UnixMillis(11),
            cycles: 12,
            missed: 13,
            failures: 14,
            bytes: 1 << 36,
            bytes_max: 1 << 35,
            latency_ms: 15,
            latency_max_ms: 16,
        },
        in_flight: Some(InFlight { sequence: 6, taken_at: UnixMillis(17), bytes: 1 << 20 }),
        compared: Some(Compared { code: "asked".into(), message: "an operator asked".into(), at: UnixMillis(18) }),
        clock_skew_ms: Some(-19),
        limited_to_kbit: Some(5000),
    };
    Figures {
        holder: Some(holder),
        sender: Some(sender),
        traffic: Traffic { sent_bytes: 1 << 36, wire_bytes: 1 << 35 },
    }
}

#[test]
fn data_messages() {
    let sending = Hello::Send {
        vm: vm(),
        epoch: epoch(4),
        sender_epoch: SenderEpoch::from_number(3),
        disks: vec![disk()],
        known: vec![point()],
    };
    let passing = PassHello {
        vm: vm(),
        epoch: epoch(4),
        cluster: Fingerprint([9; 32]),
        sender: SenderEpoch::from_number(3),
        newest: tip(),
        staged: Some(tip()),
    };
    let copying = Hello::Copy { vm: vm(), epoch: epoch(4) };
    check_all("data_hello", &[sending, copying, Hello::Pass(Box::new(passing)), Hello::Leaves { vm: vm() }]);
    let staged = Some(Staged { tip: tip(), extents: 77 });
    let welcomes = [
        Welcome::Ready { newest: Some(tip()), staged, comparable: true, points: vec![point()], confirmed: true },
        Welcome::Moved(location()),
        Welcome::NotHere,
        Welcome::Refused(refusal()),
    ];
    check_all("data_welcome", &welcomes);
    let change_set = ChangeSet {
        base: Some(tip()),
        tip: tip(),
        disks: vec![(disk(), Root([9; 32]))],
        taken_at: UnixMillis(4),
        consistency: Consistency::Crash,
        stays: true,
        resume_at: 5,
    };
    let extent = |content| Extent { disk: 1, offset: 1 << 30, content };
    let bytes: Vec<u8> = (0..=255).collect();
    let packed = Packed { disk: 1, offset: 1 << 30, length: 4096, hash: [8; 32], frame: vec![0x28, 0xb5, 0x2f, 0xfd] };
    let requests = [
        DataRequest::Compare { disk: disk().target, node_bytes: 4096, first: 1, count: 16 },
        DataRequest::Fill(extent(Content::Zero(1 << 20))),
        DataRequest::Begin(change_set),
        DataRequest::Extent(extent(Content::Data(bytes, [8; 32]))),
        DataRequest::End { extents: 3 },
        DataRequest::Bye,
        DataRequest::FillPacked(packed.clone()),
        DataRequest::ExtentPacked(packed),
    ];
    check_all("data_request", &requests);
    let answers = [
        DataAnswer::Hashes(vec![[1; 32], [2; 32]]),
        DataAnswer::Go,
        DataAnswer::Acknowledged { point: point(), confirmed: false },
        DataAnswer::Moved(location()),
        DataAnswer::Refused(refusal()),
    ];
    check_all("data_answer", &answers);
    let reading = CopyRequest::Read { file: "head.qcow2".into(), offset: 9, length: 10 };
    let digests = CopyRequest::Digests { file: "head.qcow2".into(), offset: 1 << 16, count: 3 };
    check_all("copy_request", &[CopyRequest::List { freeze: true }, reading, digests, CopyRequest::Complete]);
    let answers = [
        CopyAnswer::Files(CopyListing { files: vec![("head.qcow2".into(), 1 << 40)], damaged: vec![7] }),
        CopyAnswer::Handed(epoch(9)),
        CopyAnswer::Admitted,
        CopyAnswer::Digests(vec![[1; 32], [2; 32]]),
        CopyAnswer::Piece(vec![0, 255, 1]),
        CopyAnswer::Refused(refusal()),
    ];
    check_all("copy_answer", &answers);
}

#[test]
fn pass_messages() {
    let change_set = ChangeSet {
        base: None,
        tip: tip(),
        disks: vec![(disk(), Root([9; 32]))],
        taken_at: UnixMillis(4),
        consistency: Consistency::Off,
        stays: true,
        resume_at: 0,
    };
    let extent = Extent { disk: 1, offset: 1 << 30, content: Content::Zero(4096) };
    let requests = [
        PassRequest::Begin(change_set),
        PassRequest::Extent(extent),
        PassRequest::End { extents: 3 },
        PassRequest::Apply(tip()),
    ];
    check_all("pass_request", &requests);
    let answers = [
        PassAnswer::Stands { newest: Some(tip()), staged: None },
        PassAnswer::Staged(tip()),
        PassAnswer::Applied(tip()),
        PassAnswer::Refused(refusal()),
    ];
    check_all("pass_answer", &answers);
}

#[test]
fn leaf_messages() {
    let request = LeafRequest { point: tip(), disk: disk().target, offset: 1 << 30, length: 65_536 };
    check("leaf_request", &[request]);
    check_all("leaf_answer", &[LeafAnswer::Leaf((0..=255).collect()), LeafAnswer::Refused(refusal())]);
}

#[test]
fn join_messages() {
    let joining = Ask::Member {
        node: node("r3"),
        fqdn: Some("r3.contoso.com".parse().unwrap()),
        public_key: vec![0x30, 0x2a],
        control: member().control,
        data: member().data,
        witness: true,
    };
    let asks = [joining, Ask::Pair { peer: Box::new(peer()) }];
    check_all("join_ask", &asks);
    let requests = asks.map(|ask| JoinRequest { ticket: 5, proof: [6; 32], ask });
    check("join_request", &requests);
    let welcome = join::Welcome {
        member: id(9),
        certificate: vec![0x30, 1],
        found: found(),
        members: list(),
        line: ca_line(),
        ca_keys: vec![CaKey(vec![0x30, 0x2e])],
    };
    let answers = [
        JoinAnswer::Member(Box::new(welcome)),
        JoinAnswer::Paired(Box::new(peer())),
        JoinAnswer::Elsewhere(vec![member().control]),
        JoinAnswer::Refused(refusal()),
    ];
    check_all("join_answer", &answers);
    let invitation = Invitation {
        ticket: 5,
        secret: [7; 32],
        ca: Fingerprint([8; 32]),
        cap: cap(),
        agents: vec![member().control],
        expires_at: UnixMillis(9),
    };
    check("invitation", &[invitation]);
}
