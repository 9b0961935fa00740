//! What the consensus log carries: proposals, and the answers that applying them gives.
//!
//! Every precondition is checked where the command is applied, so the answer is the same on every node.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::id::{
    DiskTarget, Epoch, Fingerprint, Fqdn, MemberId, NodeName, Position, PrimaryPattern, RequestId, Revision,
    SenderEpoch, Term, UnixMillis, VmId,
};
use crate::model::{
    AuthorizationEntry, Bandwidth, CaLine, FailoverStep, Found, Frequency, HandOff, LogMark, MemberList, NetworkChange,
    Peer, PromotionId, Replica, Right, Succession, Ticket, VmSpec,
};
use crate::refusal::Refusal;

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// The request this carries out, so that a repeated one gets the first one's answer.
    pub request: Option<RequestId>,
    /// The proposer's wall clock: the only time that applying may read.
    pub at: UnixMillis,
    /// The term of the owner that proposes it: refused once a newer claim is applied. `None` only where no owner is
    /// needed ([`Command::Found`], [`Command::Claim`]).
    pub term: Option<Term>,
    /// What to do.
    pub command: Command,
}

/// A change of the committed state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// The first command of a cluster.
    Found(Box<Found>),
    /// The leader `0` takes the CAP; the entry's position becomes the term.
    Claim(MemberId),
    /// Nothing: proves that a write still commits and applies.
    Probe,
    /// Keeps a join token or pairing code.
    AddTicket(Ticket),
    /// Forgets a ticket.
    RevokeTicket(u64),
    /// Admits a node; the entry's position becomes its id. The same key asking again gets the same id.
    Join {
        /// The ticket it proved.
        ticket: u64,
        /// Its key.
        key: Fingerprint,
        /// Its name.
        node: NodeName,
        /// The name for its certificate.
        fqdn: Fqdn,
        /// Its control address.
        control: SocketAddr,
        /// Its data address.
        data: SocketAddr,
    },
    /// A member says where it now answers.
    Readdress {
        /// The member.
        member: MemberId,
        /// Its control address.
        control: SocketAddr,
        /// Its data address.
        data: SocketAddr,
    },
    /// Removes a member for good.
    Remove(MemberId),
    /// Changes settings, all or none.
    Set {
        /// New values by key; `None` returns a setting to its default.
        changes: BTreeMap<String, Option<String>>,
        /// The revision that the user saw; refused when settings have changed since.
        expect: Option<Revision>,
        /// Who asked, for the history.
        by: String,
    },
    /// Adds or replaces the entry with this pattern.
    Authorize(AuthorizationEntry),
    /// Removes an entry and stops the replication of the VMs that lived under it.
    Deauthorize(PrimaryPattern),
    /// Pairs with a cluster. `ticket` is the code it proved here, `None` on the side that accepted.
    Pair {
        /// The peer.
        peer: Box<Peer>,
        /// The code and the key that used it.
        ticket: Option<(u64, Fingerprint)>,
    },
    /// A peer's member list; refused when older than the one that stands.
    Relist(MemberList),
    /// Forgets a peer.
    Unpair(Fqdn),
    /// Creates a replica, or answers where it is if this primary has it already. Authorization, storage and trust
    /// group come from the table at apply; the given ones are ignored.
    Place {
        /// The VM.
        vm: Box<VmSpec>,
        /// The primary's CAP, as its certificate proved it.
        primary: Fqdn,
        /// The chosen node.
        holder: MemberId,
        /// The change set interval.
        frequency: Frequency,
        /// Older points to keep.
        recovery_points: u8,
        /// The epoch of the holder that did not answer, where a primary asks again before anything was acknowledged:
        /// the replica then moves to `holder`.
        instead_of: Option<Epoch>,
        /// The promotion under which the primary runs; `None` for a VM as it was first enabled.
        lineage: Option<PromotionId>,
    },
    /// The primary's disks or adapters changed.
    Respecify {
        /// The VM as it is now.
        vm: Box<VmSpec>,
        /// The primary's CAP.
        primary: Fqdn,
    },
    /// Has a node copy the replica to join the in-sync set (`Some`), or gives that up (`None`).
    Copy {
        /// The replica.
        vm: VmId,
        /// The epoch it was decided on.
        epoch: Epoch,
        /// The node.
        to: Option<MemberId>,
    },
    /// The node has every acknowledged byte: it joins the in-sync set. Only one that was told to copy the replica.
    Admit {
        /// The replica.
        vm: VmId,
        /// The epoch it was decided on.
        epoch: Epoch,
        /// The node.
        member: MemberId,
        /// The entry by which it was told to.
        begun: Position,
    },
    /// The node does not keep up, or is one too many: it leaves the in-sync set, or is not to join it.
    Leave {
        /// The replica.
        vm: VmId,
        /// The epoch it was decided on.
        epoch: Epoch,
        /// The node.
        member: MemberId,
    },
    /// The holder lists its first point: from now on the replica may not simply be placed elsewhere.
    Acknowledged {
        /// The replica.
        vm: VmId,
        /// The epoch of the holder.
        epoch: Epoch,
    },
    /// Starts (`Some`) or gives up (`None`) a hand-over. A member of the in-sync set holds the replica at once; the
    /// entry's position becomes the epoch then.
    Handover {
        /// The replica.
        vm: VmId,
        /// The epoch it was decided on.
        epoch: Epoch,
        /// The new holder.
        to: Option<MemberId>,
    },
    /// Makes `to`, a member of the in-sync set, the holder; the entry's position becomes the epoch.
    Assign {
        /// The replica.
        vm: VmId,
        /// The epoch it was decided on.
        epoch: Epoch,
        /// The new holder.
        to: MemberId,
    },
    /// Starts to fill `to`, because no live member of the in-sync set is left; the entry's position becomes the epoch.
    Seed {
        /// The replica.
        vm: VmId,
        /// The epoch it was decided on.
        epoch: Epoch,
        /// The node to fill.
        to: MemberId,
    },
    /// The seeding node has its first complete point: it becomes the holder and the only member of the in-sync set.
    Seeded {
        /// The replica.
        vm: VmId,
        /// The epoch of the seeding.
        epoch: Epoch,
    },
    /// Removes a replica at its primary's wish, or at this side's (`primary` is `None`).
    RemoveReplica {
        /// The replica.
        vm: VmId,
        /// The primary's CAP, where the primary asks.
        primary: Option<Fqdn>,
    },
    /// Enables replication of a VM of this cluster.
    Enable {
        /// The VM.
        vm: Box<VmSpec>,
        /// The CAP to replicate to.
        to: Fqdn,
        /// The change set interval.
        frequency: Frequency,
        /// Older points to keep.
        recovery_points: u8,
        /// When the first copy begins; at once where none is given.
        starts_at: Option<UnixMillis>,
        /// What its sender may take of the line at most.
        limit: Option<Bandwidth>,
        /// Disks of the VM that are not replicated; `vm` is without them.
        excluded: Vec<DiskTarget>,
    },
    /// Disables it.
    Disable(VmId),
    /// The sender saw the VM's disks or adapters change.
    Reshape(Box<VmSpec>),
    /// A node on which the VM now is claims to send it. Where the present sender has neither released it nor is
    /// `down`, the claimer is noted as a rival.
    ClaimSender {
        /// The VM.
        vm: VmId,
        /// The claimer.
        member: MemberId,
        /// The sender epoch that the claimer saw.
        epoch: SenderEpoch,
        /// Whether the owner holds the present sender for down, and the VM runs at the claimer.
        down: bool,
    },
    /// The VM is no longer on this node: gives up the role, or the rivalry.
    ReleaseSender {
        /// The VM.
        vm: VmId,
        /// The node.
        member: MemberId,
    },
    /// Pauses the replication of a VM at this side, whichever it is.
    Pause(VmId),
    /// Goes on with it; a first copy that was to begin later begins.
    Resume(VmId),
    /// The sender is to compare both sides before it sends anything more.
    Resync(VmId),
    /// A step of a failover.
    Failover {
        /// The VM.
        vm: VmId,
        /// The step.
        step: Box<FailoverStep>,
    },
    /// Changes what adapters have after a failover.
    Network(Box<NetworkChange>),
    /// Changes how a primary of this cluster is replicated; what is not given stays as it is.
    Adjust {
        /// The VM.
        vm: VmId,
        /// The change set interval.
        frequency: Option<Frequency>,
        /// Older points to keep.
        recovery_points: Option<u8>,
        /// What its sender may take of the line; one that never limits anything takes the limit away.
        limit: Option<Bandwidth>,
    },
    /// The owner `0` gives the CAP up: nothing is carried out until somebody claims it.
    Yield(MemberId),
    /// A node is drained: it gets nothing new and what it holds is moved away; or it is drained no more.
    Drain {
        /// The node.
        member: MemberId,
        /// Whether it is drained.
        on: bool,
    },
    /// How far each member's log has come, as the owner knows it: what a node whose data folder is rolled back is told by
    /// the others. It also proves that a write still commits and applies.
    Mark(BTreeMap<MemberId, LogMark>),
    /// A new CA begins to take the present one's place; both count until [`Command::RetireCa`].
    RotateCa(Box<Succession>),
    /// A member has a certificate of the CA `ca`, and its key where it may issue.
    Renewed {
        /// The member.
        member: MemberId,
        /// The new CA.
        ca: Fingerprint,
    },
    /// A peer has committed the CA `ca` of this cluster.
    Followed {
        /// The peer.
        cap: Fqdn,
        /// The new CA.
        ca: Fingerprint,
    },
    /// The CA `ca` alone counts from now on.
    RetireCa {
        /// The new CA.
        ca: Fingerprint,
        /// Whether an operator gives up those that have not followed.
        give_up: bool,
    },
    /// What a peer says of its CAs.
    Follow {
        /// The peer.
        cap: Fqdn,
        /// Its CAs.
        line: Box<CaLine>,
    },
    /// The cluster that kept the replica of a VM whose replication was ended here has ended its half, or never will.
    HalfEnded {
        /// The VM.
        vm: VmId,
        /// The other cluster.
        cap: Fqdn,
        /// Where it was ended here: a later end is to be told for itself.
        at: Position,
    },
}

/// What a command gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Done, at the entry's position.
    Done,
    /// The CAP is claimed.
    Claimed {
        /// Under this term.
        term: Term,
        /// Whether its last owner had given it up, or there was none: nobody has anything of it still.
        vacant: bool,
    },
    /// Admitted under this id.
    Joined(MemberId),
    /// The settings stand at this revision.
    Set(Revision),
    /// The VMs whose replication this stopped.
    Stopped(Vec<VmId>),
    /// The replica as it stands; `created` tells whether this command created or re-placed it.
    Placed {
        /// The replica.
        replica: Box<Replica>,
        /// Whether it is new.
        created: bool,
    },
    /// The replica's epoch after the command.
    Epoch(Epoch),
    /// The VM's sender epoch after the command.
    SenderEpoch(SenderEpoch),
    /// What became of a hand-over.
    HandOff(HandOff),
    /// What this cluster has committed about the right to run a VM.
    Right(Right),
}

/// The answer of a command: the same on every node, and remembered for its request.
pub type Answer = Result<Outcome, Refusal>;
