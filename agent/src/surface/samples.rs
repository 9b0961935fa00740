//! One value of every shape, for tests of the shapes and of what carries them.

mod cap_address;
mod doctor;
mod network;
mod steering;

use std::collections::BTreeMap;

use landfall_proto::id::{Epoch, Fingerprint, MemberId, Position, Revision, Root, SenderEpoch, Term, UnixMillis, VmId};
use landfall_proto::message::control::{Consistency, PointState};
use landfall_proto::model::{Adapter, AdapterKind, Addresses, DiskSpec, Frequency, VmSpec};
use landfall_proto::{Class, Refusal};

pub use self::cap_address::*;
pub use self::doctor::*;
pub use self::network::*;
pub use self::steering::*;
use super::authorization::*;
use super::ca::CaStatus;
use super::cluster::*;
use super::disabled::*;
use super::event::*;
use super::failover::*;
use super::node::*;
use super::peer::*;
use super::point::*;
use super::seed::*;
use super::settings::*;
use super::token::*;
use super::vm::*;
use super::vm_service::*;
use super::{Utc, hex};
use crate::vm_service::{Image, ImageFormat, StorageReport, VmReport};

pub const VM: &str = "6f1c2a52-0b0f-4c6e-9f2e-3a51d0a1c001";

pub fn at() -> Utc {
    Utc(UnixMillis(1_763_836_961_250))
}

fn name<T: std::str::FromStr<Err = Refusal>>(text: &str) -> T {
    text.parse().unwrap()
}

pub fn vm() -> VmId {
    name(VM)
}

pub fn cluster_status() -> ClusterStatus {
    let member = |node, number, role, state, address: &str| MemberStatus {
        node: name(node),
        id: MemberId::from_number(number),
        role,
        state,
        address: address.parse().unwrap(),
    };
    ClusterStatus {
        cluster: name("Cluster-R"),
        cap: name("r-broker-cap.contoso.com"),
        node: name("r1"),
        role: MemberRole::Voter,
        owner: Some(name("r1")),
        term: Some(Term::from_number(3)),
        quorate: true,
        settings_revision: Revision::from_number(12),
        members: vec![
            member("r1", 1, MemberRole::Voter, NodeState::Up, "10.0.0.11:7443"),
            member("rw", 9, MemberRole::Witness, NodeState::Suspect, "10.0.0.13:7443"),
        ],
        cap_address: Some(cap_address()),
        ca: CaStatus { present: Fingerprint([0xab; 32]).into(), rotation: None },
        tolerates_losses: 0,
        warnings: vec!["two voters survive no loss: add a witness".to_owned()],
    }
}

pub fn node_status() -> NodeStatus {
    NodeStatus {
        node: name("r1"),
        id: MemberId::from_number(1),
        role: MemberRole::Voter,
        state: NodeState::Up,
        vm_service: VmServiceState::Degraded,
        vm_service_reason: Some("storage 'default' is full".to_owned()),
        settings_revision: Some(Revision::from_number(12)),
        replicas: 2,
        free_bytes: Some(5 << 30),
        quarantine: None,
    }
}

pub fn node_detail() -> NodeDetail {
    NodeDetail {
        status: node_status(),
        fqdn: name("r1.contoso.com"),
        key: hex::KeyHex(Fingerprint([0xab; 32])),
        address: "10.0.0.11:7443".parse().unwrap(),
        data_address: "10.0.0.11:7444".parse().unwrap(),
        version: Some("0.1.0".to_owned()),
        applied: Some(Position::new(0, 40)),
        storage: vec![StorageRoom {
            name: name("default"),
            path: Some("/srv/replicas".into()),
            free_bytes: 5 << 30,
            fault: None,
        }],
    }
}

pub fn settings() -> Settings {
    let settings = [
        ("apply_disk_limit", 4.into()),
        ("default_storage_location", serde_json::Value::Null),
        ("node_down_after", "5s".into()),
        ("replication_enabled", true.into()),
    ];
    Settings {
        revision: Revision::from_number(12),
        settings: settings.map(|(key, value)| (key.to_owned(), value)).into(),
    }
}

pub fn settings_view() -> SettingsView {
    let settings = [("node_down_after", "5s"), ("replication_enabled", "true")];
    SettingsView {
        revision: Revision::from_number(12),
        settings: settings.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
    }
}

pub fn changes() -> Vec<SettingChange> {
    let change = |key: &str, old: Option<&str>, new: Option<&str>| SettingChange {
        key: key.to_owned(),
        old: old.map(str::to_owned),
        new: new.map(str::to_owned),
    };
    vec![
        change("default_storage_location", Some("old"), None),
        change("replication_enabled", Some("false"), Some("true")),
    ]
}

pub fn settings_revision() -> SettingsRevision {
    SettingsRevision::new(Revision::from_number(12), changes(), "root at r1".to_owned(), at())
}

pub fn authorization() -> Authorization {
    Authorization { primary: name("p-broker-cap.contoso.com"), storage: name("default"), trust_group: name("T1") }
}

pub fn named_vm() -> NamedVm {
    NamedVm { uuid: vm(), name: "VirtualMachine_Workload".to_owned() }
}

pub fn disabled() -> VmDisabled {
    let left = "no agent of r-broker-cap.contoso.com gave an answer within 15 s";
    let (name, replica_left) = ("VirtualMachine_Workload".to_owned(), Some(left.to_owned()));
    VmDisabled { uuid: vm(), name, replica_left, ends_by_itself: true }
}

pub fn peer_status() -> PeerStatus {
    PeerStatus {
        cap: name("p-broker-cap.contoso.com"),
        cluster: name("Cluster-P"),
        health: Health::Normal,
        health_reasons: vec![],
        ca_key: hex::KeyHex(Fingerprint([0x01; 32])),
        position: Position::new(0, 7),
        confirmed_at: at(),
        members: vec![PeerMember { node: name("p1"), address: "10.0.1.11:7443".parse().unwrap(), witness: false }],
    }
}

pub fn token_created() -> TokenCreated {
    TokenCreated { token: "lf1.secret".to_owned(), expires_at: at(), id: TokenId(0x1f) }
}

pub fn token_status() -> TokenStatus {
    TokenStatus {
        id: TokenId(0x1f),
        kind: TokenKind::JoinWitness,
        replaces: Some(name("r2")),
        expires_at: at(),
        used_by: None,
    }
}

pub fn vm_status() -> VmStatus {
    VmStatus {
        uuid: vm(),
        name: "VirtualMachine_Workload".to_owned(),
        role: VmRole::Replica,
        state: ReplicationState::Replicating,
        health: Health::Warning,
        health_reasons: vec!["the newest point is 200 s old".to_owned()],
        health_details: vec![HealthDetail {
            code: "point_late".to_owned(),
            severity: Health::Warning,
            message: "the newest point is 200 s old".to_owned(),
            command: format!("landfall vm show {VM}"),
        }],
        connection_point: Some(name("p-broker-cap.contoso.com")),
        primary_host: Some("p1.contoso.com".to_owned()),
        replica_cluster: Some(name("r-broker-cap.contoso.com")),
        replica_host: Some("r2.contoso.com".to_owned()),
        in_sync: vec![name("r1"), name("r2")],
        epoch: Some(Epoch::from_number(31)),
        consistency: Some(Consistency::Crash),
        last_point_at: Some(at()),
        lag_seconds: Some(14),
        recoverable_rpo_seconds: Some(14),
        sent_bytes: 3 << 20,
        wire_bytes: 1_200_000,
    }
}

pub fn vm_detail() -> VmDetail {
    VmDetail {
        status: vm_status(),
        vm_state: Some(VmState::Stopped),
        frequency_seconds: Some(Frequency::HalfMinute),
        testing_interval_ms: Some(200),
        recovery_points: Some(4),
        storage: Some(name("default")),
        trust_group: Some(name("T1")),
        sender_epoch: Some(SenderEpoch::from_number(8)),
        disks: vec![DiskStatus { target: name("vda"), bytes: 4 << 30 }],
        adapters: vec![Adapter {
            name: "eth0".to_owned(),
            kind: AdapterKind::Synthetic,
            mac: "52:54:00:aa:bb:01".to_owned(),
            network: Addresses::default(),
        }],
        activity: Some("waiting".to_owned()),
        freeze: Some("stopped".to_owned()),
        frozen_micros: Some(1500),
        source: Some("index".to_owned()),
        missed_cycles: Some(0),
        fault: Some(Refusal::new(Class::Unreachable, "unreachable", "r2 does not answer").into()),
        moving_to: None,
        copies_wanted: None,
        copying_to: None,
        sent_point: Some(PointMark { point: 6, taken_at: at() }),
        durable_point: Some(PointMark { point: 5, taken_at: at() }),
        verified_point: Some(PointMark { point: 5, taken_at: at() }),
        pending_bytes: Some(8192),
        clock_skew_ms: Some(-12),
        statistics: Some(ReplicationStatistics {
            since: at(),
            until: at(),
            cycles: 40,
            missed: 1,
            failures: 2,
            sent_bytes: 3 << 20,
            sent_bytes_max: 1 << 20,
            sent_bytes_average: Some(78_643),
            latency_max_ms: 2100,
            latency_average_ms: Some(310),
        }),
        paused_since: None,
        starts_at: None,
        bandwidth_limit: Some(name("08:00-18:00=5, else=unlimited")),
        limited_to_kbit: Some(5000),
        excluded_disks: vec![name("vdb")],
        compared: Some(Comparison {
            code: "new_sender".to_owned(),
            message: "this node has not sent the VM before".to_owned(),
            at: at(),
        }),
        rivals: vec![],
        passed_over: vec![PassedOver { node: name("r1"), reason: "not drawn".to_owned() }],
    }
}

pub fn location() -> VmLocation {
    VmLocation {
        uuid: vm(),
        node: name("r2"),
        address: "10.0.0.12:7444".parse().unwrap(),
        epoch: Epoch::from_number(31),
    }
}

pub fn point() -> PointStatus {
    PointStatus {
        point: 5,
        taken_at: at(),
        consistency: Consistency::Off,
        bytes: 65536,
        root: hex::RootHex(Root([0xcd; 32])),
        copies: vec![name("r1"), name("r2")],
        damaged_at: Vec::new(),
        verified_at: None,
        state: PointState::Listed,
        stays: true,
    }
}

pub fn proof() -> PointProof {
    PointProof {
        uuid: vm(),
        point: 5,
        root: hex::RootHex(Root([0xcd; 32])),
        bytes: 4 << 30,
        read_bytes: 4 << 30,
        verified_at: Some(at()),
        repaired: None,
        copies: vec![
            CopyProof { node: name("r1"), read_bytes: 4 << 30, verified_at: Some(at()), repaired: None, fault: None },
            CopyProof {
                node: name("r2"),
                read_bytes: 4 << 30,
                verified_at: Some(at()),
                repaired: Some("disk vda, bytes 0 to 65536, out of the copy on r1".to_owned()),
                fault: None,
            },
        ],
    }
}

pub fn exported() -> PointExported {
    PointExported {
        uuid: vm(),
        point: 5,
        root: hex::RootHex(Root([0xcd; 32])),
        files: vec![ExportedFile {
            target: name("vda"),
            path: "/tmp/out/vda.raw".into(),
            bytes: 4 << 30,
            root: hex::RootHex(Root([0xab; 32])),
        }],
    }
}

pub fn difference() -> PointDifference {
    let disk = DiskDifference {
        target: name("vda"),
        from_bytes: 4 << 30,
        to_bytes: 4 << 30,
        differing_bytes: 12_288,
        ranges: vec![ByteRange { offset: 4096, bytes: 8192 }],
        left_out: 1,
    };
    PointDifference { uuid: vm(), from: 4, to: 5, disks: vec![disk] }
}

pub fn seeded() -> Seeded {
    let files = exported().files;
    Seeded { uuid: vm(), action: SeedAction::Import, node: name("r1"), taken_at: at(), files }
}

pub fn event() -> Event {
    Event {
        id: 7,
        at: at(),
        severity: Severity::Warning,
        kind: "owner_changed".to_owned(),
        node: Some(name("r1")),
        vm: None,
        message: "r1 owns r-broker-cap.contoso.com".to_owned(),
        fields: BTreeMap::from([("term".to_owned(), "3".to_owned())]),
    }
}

pub fn vm_service_status() -> VmServiceStatus {
    let vm = VmSpec {
        id: vm(),
        name: name("VirtualMachine_Workload"),
        disks: vec![DiskSpec { target: name("vda"), bytes: 4096 }],
        adapters: vec![],
        launch: Default::default(),
    };
    VmServiceStatus {
        state: Condition::Running,
        reason: None,
        vms: vec![VmReport {
            vm,
            role: VmRole::Primary,
            state: VmState::Running,
            run: 9,
            stopped_only: false,
            images: vec![Image {
                target: name("vda"),
                path: "/vms/a/disk.raw".into(),
                format: ImageFormat::Raw,
                bytes: 4096,
            }],
            fault: Some(Refusal::not_found("image", "vda")),
        }],
        storage: vec![StorageReport {
            name: name("default"),
            path: "/srv/replicas".into(),
            free_bytes: 5 << 30,
            fault: None,
        }],
        pid: 4242,
    }
}

pub fn failover_status() -> FailoverStatus {
    FailoverStatus {
        uuid: vm(),
        name: "VirtualMachine_Workload".to_owned(),
        kind: Some(FailoverWord::Unplanned),
        step: "running".to_owned(),
        right_to_run: false,
        promotion: Some("0f".repeat(16)),
        point: Some(41),
        point_verified_at: Some(at()),
        started_at: Some(at()),
        loss_seconds: Some(12),
        loss_bytes: Some(4096),
        node: Some(name("r1")),
        run_vm: Some(vm()),
        parent: None,
        branch: Some(FailoverBranch {
            promotion: "0e".repeat(16),
            at: name("r-broker-cap.contoso.com"),
            point: 40,
            since: at(),
            keep: None,
        }),
        branches: vec!["0d".repeat(16)],
        test: false,
        fault: None,
    }
}

pub fn failover_plan() -> FailoverPlan {
    FailoverPlan {
        uuid: vm(),
        name: "VirtualMachine_Workload".to_owned(),
        action: FailoverAction::Unplanned,
        point: Some(41),
        taken_at: Some(at()),
        verified_at: None,
        node: Some(name("r1")),
        loss_seconds: Some(12),
        loss_bytes: Some(4096),
        command: vec!["./guest".to_owned(), "disk.raw".to_owned()],
        steps: vec!["start the VM".to_owned()],
        warnings: vec!["p-broker-cap.contoso.com does not answer".to_owned()],
        blockers: vec![Refusal::new(Class::Refused, "primary_runs", "it runs").into()],
    }
}
