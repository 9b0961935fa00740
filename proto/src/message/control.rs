//! `landfall-control/1`: between the agents of a cluster, and a few verbs between paired clusters.

use serde::{Deserialize, Serialize};

use crate::id::{
    Epoch, Fingerprint, MemberId, NodeName, Position, Revision, Root, SenderEpoch, Term, UnixMillis, VmId,
};
use crate::message::broker::{Location, Place};
pub use crate::message::ca::{CaKey, News};
pub use crate::message::cycle::{Compared, InFlight, Statistics};
pub use crate::message::difference::{DIFFERENCE_RANGES_MAX, DiskDifference};
pub use crate::message::faults::{FAULT_TEXT_MAX, FAULTS_MAX, StagingFaults};
pub use crate::message::point::{Consistency, Point, PointState, ProofFigures};
pub use crate::message::traffic::Traffic;
use crate::model::{Answer, Command, HandOff, LogMark, PointName, PromotionId, Return, Right, Succession};
use crate::refusal::Refusal;

/// A request between agents. Verbs marked *peer* are also taken from paired clusters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ControlRequest {
    /// To the owner: commit this. The owner checks its lease, adds its term and clock, and answers what apply gave.
    Propose {
        /// The request it carries out.
        request: Option<crate::id::RequestId>,
        /// The command.
        command: Box<Command>,
    },
    /// To the owner: a primary's Place that reached another agent.
    Place {
        /// The primary's CAP, as its certificate proved it to the forwarding agent.
        primary: crate::id::Fqdn,
        /// The wish.
        place: Box<Place>,
    },
    /// Are you alive, and is your replica storage?
    Probe,
    /// Please probe that member for me.
    ProbeFor(MemberId),
    /// From the owner: wait until you have applied `position` and your VM service has registered the replica.
    AwaitRegistered {
        /// The owner's term: an older one than the receiver has seen is refused.
        term: Term,
        /// The replica.
        vm: VmId,
        /// Its assignment.
        epoch: Epoch,
        /// The position that assigned it.
        position: Position,
    },
    /// *peer*: the replica of this VM is now received elsewhere.
    Moved {
        /// The VM.
        vm: VmId,
        /// Where.
        to: Location,
    },
    /// *peer*: our members and CAs as this node has applied them; the answer is the receiver's own.
    Members(Box<News>),
    /// What you know of this VM: as holder, or as sender.
    Figures(VmId),
    /// Wait until your VM service has acknowledged the settings at this revision.
    AwaitSettings(Revision),
    /// Which VMs does your VM service have?
    Vms,
    /// To the owner: do you act, and up to where is the log committed? What a holder confirms its assignment with.
    Confirm,
    /// Forward: the recovery point list or an export is the holder's business; run this for my user.
    Export {
        /// The replica.
        vm: VmId,
        /// The point; the newest where none is given.
        point: Option<u64>,
        /// The folder on the executing node.
        folder: String,
    },
    /// *peer*: this VM's replica is no longer paused, so that its sender need not wait for its next try.
    Resumed(VmId),
    /// Count this VM's statistics from zero: you send it.
    ResetStatistics(VmId),
    /// *peer*: what does your clock read?
    Clock,
    /// *peer*: our right to run this VM is released to you: take it, decline it, or say what became of it.
    HandOff {
        /// The VM.
        vm: VmId,
        /// The departure.
        id: PromotionId,
        /// Its order, a position of the asker's log.
        order: Position,
        /// The content at which it was released.
        point: PointName,
        /// What is wanted.
        wish: HandOffWish,
    },
    /// *peer*: does the primary of this VM run?
    Runs(VmId),
    /// What is this node doing for the failover of this VM?
    Run(VmId),
    /// *peer*: open a connection to each of my ports, at the addresses that the member list has, and say what came of it.
    ReachBack,
    /// Write the VM's disks as a seed, or take one for the replica: run this for my user.
    Seed {
        /// The VM.
        vm: VmId,
        /// The folder on the executing node.
        folder: String,
        /// Whether the seed is taken; else it is written.
        import: bool,
    },
    /// Issue a new certificate for my key: I hold no key of the CA.
    Renew {
        /// The caller's SubjectPublicKeyInfo, DER.
        public_key: Vec<u8>,
    },
    /// Read a point back and compare it with its hashes, or say how far that is.
    Prove {
        /// The replica.
        vm: VmId,
        /// The point; the newest, or the one that is being read, where none is given.
        point: Option<u64>,
        /// Whether to begin, where it is not under way.
        begin: bool,
    },
    /// Which bytes differ between two points of the replica that you hold?
    Difference {
        /// The replica.
        vm: VmId,
        /// One point.
        from: u64,
        /// The other.
        to: u64,
        /// Ranges to list at most.
        limit: u32,
    },
    /// Remove a branch of this VM that you keep.
    DropBranch {
        /// The VM.
        vm: VmId,
        /// The promotion that the branch was.
        id: PromotionId,
        /// Only say whether you keep it.
        look: bool,
    },
    /// *peer*: we run your VM: keep a replica of it.
    Return {
        /// The VM.
        vm: VmId,
        /// What it comes back from.
        back: Return,
        /// The promotion's parent.
        parent: Option<PromotionId>,
        /// Only say what stands in the way.
        check: bool,
    },
    /// *peer*: we run a branch of your VM.
    Branch {
        /// The VM.
        vm: VmId,
        /// Its promotion.
        id: PromotionId,
        /// The promotion's parent.
        parent: Option<PromotionId>,
        /// The content with which it began.
        point: PointName,
    },
    /// *peer*: do you run a branch of our VM?
    Branches(VmId),
    /// *peer*: our branch of the VM is kept: drop yours, and say what became of it.
    Abandon {
        /// The VM.
        vm: VmId,
        /// Your promotion.
        id: PromotionId,
        /// Only say what became of it.
        look: bool,
    },
    /// *peer*: our branch of your VM is kept: give it up.
    GiveUp {
        /// The VM.
        vm: VmId,
        /// Our promotion.
        id: PromotionId,
    },
    /// To the owner: give the CAP to this member; to whichever is best, where none is named.
    HandOver {
        /// The next owner.
        to: Option<MemberId>,
    },
    /// Do you own the CAP, or do you hear a leader that you follow?
    Hears,
    /// Could you have the CAP's own address? Done, or refused with what is in the way.
    CouldHoldAddress,
    /// *peer*: this cluster has begun its next life: where is the right to run this VM, as you have committed it?
    Rights {
        /// The VM.
        vm: VmId,
        /// Where our present life begins: nothing that we released before is to be taken any more.
        before: Position,
        /// Whether an operator has decided here that we have it.
        contested: bool,
    },
    /// I was started again: how far had my log come, as you know?
    Recall,
    /// To the owner: make a new CA, and have it take the present one's place.
    RotateCa {
        /// Only say which nodes would not get its key.
        dry_run: bool,
    },
    /// From the owner: keep this key, of the CA that is about to follow the present one.
    KeepCa {
        /// The owner's term: an older one than the receiver has seen is refused.
        term: Term,
        /// The CA, and the present one's word for it.
        step: Box<Succession>,
        /// Its key.
        key: CaKey,
    },
    /// Give me the key of this CA: I host VMs, and lack it.
    AskCa(Fingerprint),
}

/// What the primary's cluster wants of the replica's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HandOffWish {
    /// Take it.
    Take,
    /// Decline it, unless it is taken.
    Decline,
    /// Say what became of it.
    Look,
}

/// The answer to a [`ControlRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ControlAnswer {
    /// What applying gave, and the entry's position.
    Applied {
        /// The answer.
        answer: Answer,
        /// Where.
        position: Position,
    },
    /// To Place.
    Broker(Box<crate::message::broker::BrokerAnswer>),
    /// Alive; what takes nothing new here, where something does not.
    Alive {
        /// What, and why.
        faults: StagingFaults,
    },
    /// The probed member answered, or did not.
    Reached(bool),
    /// Done.
    Done,
    /// To Members.
    Members(Box<News>),
    /// To Figures.
    Figures(Box<Figures>),
    /// To Vms.
    Vms(Vec<LocalVm>),
    /// To Confirm.
    Confirmed {
        /// The owner's term.
        term: Term,
        /// The owner's applied position, at least as new as any commit when it was asked.
        position: Position,
    },
    /// To Export: the files that were written, on the executing node.
    Exported {
        /// The executing node.
        node: NodeName,
        /// The point.
        point: u64,
        /// The disks with their sizes in bytes and their roots: the BLAKE3 hash of the raw image.
        files: Vec<(String, u64, Root)>,
    },
    /// Refused or failed; nothing was changed.
    Refused(Refusal),
    /// To Clock.
    Clock(UnixMillis),
    /// To HandOff.
    HandOff(HandOff),
    /// To Runs: `None` where this cluster does not know.
    Runs(Option<bool>),
    /// To Run.
    Run(Option<Box<RunFigures>>),
    /// To ReachBack.
    ReachedBack {
        /// The control port.
        control: Reach,
        /// The data port.
        data: Reach,
    },
    /// To Seed: what is in the folder, on the executing node.
    Seeded {
        /// The executing node.
        node: NodeName,
        /// The instant, by the clock of the node that wrote the seed.
        taken_at: UnixMillis,
        /// The disks with their sizes in bytes and their roots: the BLAKE3 hash of the raw image.
        files: Vec<(String, u64, Root)>,
    },
    /// To Prove.
    Proof(ProofFigures),
    /// To Difference.
    Difference(Vec<DiskDifference>),
    /// To Return: what stands in the way; where nothing does, it is so, or could be.
    Return {
        /// Each with its remedy.
        blockers: Vec<Refusal>,
    },
    /// To Branches: the promotion, its parent, and the content with which it began.
    Branch(Option<(PromotionId, Option<PromotionId>, PointName)>),
    /// To HandOver.
    HandedOver {
        /// Who owns the CAP now.
        owner: MemberId,
        /// Its term.
        term: Term,
        /// For how long nobody acted, at most: from when the old owner stopped until it heard that the new one acts.
        gap_ms: u64,
    },
    /// To Hears.
    Hears(bool),
    /// A new certificate, DER.
    Renewed(Vec<u8>),
    /// To Rights.
    Right(Right),
    /// To Recall.
    Recalled {
        /// What is committed of it.
        noted: Option<LogMark>,
        /// What the answerer has of it as the leader, in its own term, committed or not.
        led: Option<LogMark>,
    },
    /// To RotateCa.
    Rotates {
        /// Nodes that did not get the key.
        missed: Vec<NodeName>,
        /// The entry that began it; of a dry run, the last one that was applied.
        position: Position,
    },
    /// To AskCa.
    CaKey(CaKey),
}

/// What trying one port gave.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reach {
    /// The size of the packets, where a connection was made.
    pub mtu: Option<u16>,
    /// Why none was.
    pub fault: Option<String>,
}

/// What a node does for a failover.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunFigures {
    /// One word: `preparing`, `starting`, `running`, `stopped`, `stopping`, `sending`.
    pub step: String,
    /// The VM that runs, where it is another one than the replicated.
    pub run_vm: Option<VmId>,
    /// Bytes of images made so far, where they are made.
    pub prepared_bytes: u64,
    /// What went wrong, while it lasts.
    pub fault: Option<Refusal>,
}

/// A VM on a node, as its VM service reports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalVm {
    /// What it is.
    pub vm: crate::model::VmSpec,
    /// Whether it is a replica, which may not start.
    pub replica: bool,
    /// Whether it runs.
    pub running: bool,
    /// Why it cannot be replicated.
    pub fault: Option<Refusal>,
}

/// What one node knows of one VM's replication. High-rate figures live where they arise and are asked for on demand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// As the node that receives it.
    pub holder: Option<HolderFigures>,
    /// As the node that sends it.
    pub sender: Option<SenderFigures>,
    /// What it has sent of it since replication was enabled, whether or not it is the sender now.
    pub traffic: Traffic,
}

/// The holder's side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HolderFigures {
    /// Its assignment.
    pub epoch: Epoch,
    /// Listed points and points known to be elsewhere, oldest first.
    pub points: Vec<Point>,
    /// What was received since the agent started; zeroes count as content here.
    pub received: Traffic,
    /// Why nothing can be received just now.
    pub fault: Option<String>,
    /// What was found damaged, and not repaired: point, disk and range of bytes.
    pub damage: Option<String>,
    /// Branches that are kept beside the replica.
    pub branches: Vec<PromotionId>,
}

/// The sender's side.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SenderFigures {
    /// The sender's epoch.
    pub epoch: SenderEpoch,
    /// What it is doing, one word (`waiting`, `comparing`, `sending`, `retrying`, `stopped`).
    pub activity: String,
    /// The point acknowledged last.
    pub acknowledged: Option<Point>,
    /// Where it sends to.
    pub receiver: Option<NodeName>,
    /// What was sent since replication was enabled, by this node and, as far as they could be asked when it took the
    /// role, by those that sent before it.
    pub traffic: Traffic,
    /// Cycles that were late.
    pub missed_cycles: u64,
    /// How the last instant was frozen: `cloned` or `stopped`.
    pub freeze: Option<String>,
    /// For how long the VM stood still for it, in microseconds.
    pub frozen_micros: u64,
    /// Where the last changes came from: `index`, `compare`, `initial`.
    pub source: Option<String>,
    /// The last failure, while it lasts.
    pub fault: Option<Refusal>,
    /// The change set interval really used, where the node's file shortens it for a test.
    pub testing_interval_ms: Option<u64>,
    /// The assignment under which it is received there.
    pub assignment: Option<Epoch>,
    /// A newer point than the acknowledged one that does not count yet: its holder could not ask its quorum.
    pub unconfirmed: Option<Point>,
    /// What was counted in this monitoring window.
    pub statistics: Statistics,
    /// The change set that is captured and not acknowledged.
    pub in_flight: Option<InFlight>,
    /// The last comparison of both sides by this sender, and why.
    pub compared: Option<Compared>,
    /// How far the other side's clock is ahead, in milliseconds, where it was asked.
    pub clock_skew_ms: Option<i64>,
    /// Kilobits a second that it may take of the line now, where something limits it.
    pub limited_to_kbit: Option<u64>,
}
