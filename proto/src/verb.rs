//! Who may ask what: one table of every request between nodes and of every party, deny by default.
//!
//! A request is looked up where it arrives, before anything is done, by what the lists and the committed state make of the
//! caller at that moment. What it then does is checked again by the node that carries it out, against its own state: that
//! it holds the replica, at this assignment, under no older term. [`TrustView::admits`](crate::trust::TrustView::admits)
//! is the coarse form of the same table, asked once for a connection.

use crate::alpn::Alpn;
use crate::id::VmId;
use crate::message::broker::BrokerRequest;
use crate::message::control::ControlRequest;
use crate::message::data::Hello;
use crate::planted::{self, Bug};

/// What a caller is to the node that is asked, and to the VM that is asked about. A paired cluster may be both of a VM's
/// sides while a reversal turns its records round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Party {
    /// A member of the same cluster that hosts VMs.
    Member,
    /// A witness of the same cluster.
    Witness,
    /// A node of the paired cluster that sends this VM here.
    Primary,
    /// A node of the paired cluster that keeps this cluster's VM.
    Keeper,
    /// A node of a paired cluster, where no VM is named or neither side of the named one is here.
    Paired,
    /// A node of a paired cluster, where the named VM is replicated with another cluster.
    Outsider,
    /// A node with a good certificate of this cluster that the list does not have yet.
    Newcomer,
    /// A key that nobody vouches for.
    Stranger,
    /// A node, or one of a cluster, that was removed.
    Removed,
}

impl Party {
    /// Every party.
    pub const ALL: [Self; 9] = [
        Self::Member,
        Self::Witness,
        Self::Primary,
        Self::Keeper,
        Self::Paired,
        Self::Outsider,
        Self::Newcomer,
        Self::Stranger,
        Self::Removed,
    ];
}

/// Those who may ask for one of several kinds of requests.
mod parties {
    use super::Party::{self, Keeper, Member, Newcomer, Outsider, Paired, Primary, Stranger, Witness};

    /// Every node of this cluster.
    pub const OWN: &[Party] = &[Member, Witness];
    /// Nodes that may have replicas or own the CAP.
    pub const HOSTS: &[Party] = &[Member];
    /// As [`OWN`], and whoever follows the log but has not heard of its own admission yet.
    pub const CONSENSUS: &[Party] = &[Member, Witness, Newcomer];
    /// Every node of every paired cluster, whatever VM it names: what it may see or change is its own by what apply checks
    /// (a primary moves between the servers of a trust group).
    pub const PEERS: &[Party] = &[Primary, Keeper, Paired, Outsider];
    /// The two clusters of a VM; of one that is not known here the answer says so.
    pub const SIDES: &[Party] = &[Primary, Keeper, Paired];
    /// The cluster that keeps the VM's replica; of a VM that is not known here the answer says so.
    pub const KEEPER: &[Party] = &[Keeper, Paired];
    /// Everybody that the lists know.
    pub const LISTED: &[Party] = &[Member, Witness, Primary, Keeper, Paired, Outsider];
    /// Everybody but who was removed: what counts is the proof of a ticket.
    pub const ANYBODY: &[Party] = &[Member, Witness, Primary, Keeper, Paired, Outsider, Newcomer, Stranger];
}

macro_rules! verbs {
    ($($verb:ident $alpn:ident $parties:ident $what:literal;)*) => {
        /// One kind of request.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Verb {
            $(#[doc = $what] $verb,)*
        }

        impl Verb {
            /// Every verb.
            pub const ALL: &[Self] = &[$(Self::$verb,)*];

            /// The protocol that it belongs to.
            pub const fn alpn(self) -> Alpn {
                match self { $(Self::$verb => Alpn::$alpn,)* }
            }

            /// Who may ask for it.
            pub const fn parties(self) -> &'static [Party] {
                match self { $(Self::$verb => parties::$parties,)* }
            }

            /// What it asks for, in words.
            pub const fn what(self) -> &'static str {
                match self { $(Self::$verb => $what,)* }
            }
        }
    };
}

verbs! {
    Gossip Gossip OWN "tell of itself";
    Consensus Raft CONSENSUS "take part in consensus";
    Join Join ANYBODY "join or pair with a ticket";

    Probe Control OWN "ask whether this node lives";
    ProbeFor Control OWN "have a member probed";
    Hears Control OWN "ask whether a leader is heard";
    Recall Control OWN "ask how far its log had come";
    Confirm Control OWN "have its role confirmed";
    Propose Control OWN "have a command committed";
    ForwardPlace Control OWN "forward a primary's wish for a place";
    HandOver Control OWN "have the CAP handed over";
    CouldHoldAddress Control OWN "ask whether this node could have the CAP's address";
    AwaitRegistered Control HOSTS "wait for a registration, as the owner";
    AwaitSettings Control OWN "wait for settings";
    Vms Control OWN "list VMs";
    Figures Control OWN "read figures of a VM";
    ResetStatistics Control OWN "reset statistics";
    Run Control OWN "read figures of a failover";
    Export Control OWN "export a point";
    Seed Control OWN "write or take a seed";
    Prove Control OWN "read a point back";
    Difference Control OWN "compare points";
    DropBranch Control OWN "remove a branch";
    Renew Control OWN "renew its certificate";
    RotateCa Control OWN "have the CA rotated";
    KeepCa Control HOSTS "hand over a CA's key, as the owner";
    AskCa Control HOSTS "ask for a CA's key";

    Clock Control LISTED "read the clock";
    ReachBack Control LISTED "be called back";
    Members Control PEERS "exchange member lists";
    Moved Control KEEPER "say that a replica moved";
    Resumed Control KEEPER "say that a replica is taken again";
    HandOff Control SIDES "hand the right to run over";
    Runs Control SIDES "ask whether the VM runs";
    Return Control SIDES "reverse a replication";
    Branch Control SIDES "tell of a branch";
    Branches Control SIDES "ask for a branch";
    Abandon Control SIDES "have a branch abandoned";
    GiveUp Control SIDES "have a VM given up";
    Rights Control SIDES "ask where the right to run is";

    AskReady Broker PEERS "ask whether it may replicate";
    Place Broker PEERS "have a replica placed";
    Locate Broker PEERS "ask where a replica is";
    Remove Broker PEERS "remove its replica";
    Respecify Broker PEERS "change its VM's disks";

    Send Data PEERS "send change sets";
    Copy Data HOSTS "copy a replica";
    Pass Data HOSTS "pass change sets on";
    Leaves Data HOSTS "read parts of points";
}

impl Verb {
    /// Whether `caller`, all that a caller is, may ask for it.
    pub fn is_allowed(self, caller: &[Party]) -> bool {
        caller.iter().any(|party| self.parties().contains(party)) || planted::is(Bug::VerbsForEverybody)
    }

    /// The verb of a control request.
    pub fn of_control(request: &ControlRequest) -> Self {
        match request {
            ControlRequest::Propose { .. } => Self::Propose,
            ControlRequest::Place { .. } => Self::ForwardPlace,
            ControlRequest::Probe => Self::Probe,
            ControlRequest::ProbeFor(_) => Self::ProbeFor,
            ControlRequest::AwaitRegistered { .. } => Self::AwaitRegistered,
            ControlRequest::Moved { .. } => Self::Moved,
            ControlRequest::Members(_) => Self::Members,
            ControlRequest::Figures(_) => Self::Figures,
            ControlRequest::AwaitSettings(_) => Self::AwaitSettings,
            ControlRequest::Vms => Self::Vms,
            ControlRequest::Confirm => Self::Confirm,
            ControlRequest::Export { .. } => Self::Export,
            ControlRequest::Resumed(_) => Self::Resumed,
            ControlRequest::ResetStatistics(_) => Self::ResetStatistics,
            ControlRequest::Clock => Self::Clock,
            ControlRequest::HandOff { .. } => Self::HandOff,
            ControlRequest::Runs(_) => Self::Runs,
            ControlRequest::Run(_) => Self::Run,
            ControlRequest::ReachBack => Self::ReachBack,
            ControlRequest::Seed { .. } => Self::Seed,
            ControlRequest::Renew { .. } => Self::Renew,
            ControlRequest::Prove { .. } => Self::Prove,
            ControlRequest::Difference { .. } => Self::Difference,
            ControlRequest::DropBranch { .. } => Self::DropBranch,
            ControlRequest::Return { .. } => Self::Return,
            ControlRequest::Branch { .. } => Self::Branch,
            ControlRequest::Branches(_) => Self::Branches,
            ControlRequest::Abandon { .. } => Self::Abandon,
            ControlRequest::GiveUp { .. } => Self::GiveUp,
            ControlRequest::HandOver { .. } => Self::HandOver,
            ControlRequest::Hears => Self::Hears,
            ControlRequest::Recall => Self::Recall,
            ControlRequest::CouldHoldAddress => Self::CouldHoldAddress,
            ControlRequest::Rights { .. } => Self::Rights,
            ControlRequest::RotateCa { .. } => Self::RotateCa,
            ControlRequest::KeepCa { .. } => Self::KeepCa,
            ControlRequest::AskCa(_) => Self::AskCa,
        }
    }

    /// The verb of a primary's question.
    pub fn of_broker(request: &BrokerRequest) -> Self {
        match request {
            BrokerRequest::Probe => Self::AskReady,
            BrokerRequest::Place(_) => Self::Place,
            BrokerRequest::Locate { .. } => Self::Locate,
            BrokerRequest::Remove { .. } => Self::Remove,
            BrokerRequest::Respecify { .. } => Self::Respecify,
        }
    }

    /// The verb of a data session.
    pub fn of_session(hello: &Hello) -> Self {
        match hello {
            Hello::Send { .. } => Self::Send,
            Hello::Copy { .. } => Self::Copy,
            Hello::Pass(_) => Self::Pass,
            Hello::Leaves { .. } => Self::Leaves,
        }
    }
}

/// The VM that a paired cluster's request is about.
pub fn vm_between(request: &ControlRequest) -> Option<VmId> {
    match request {
        ControlRequest::Moved { vm, .. }
        | ControlRequest::Resumed(vm)
        | ControlRequest::HandOff { vm, .. }
        | ControlRequest::Runs(vm)
        | ControlRequest::Return { vm, .. }
        | ControlRequest::Branch { vm, .. }
        | ControlRequest::Branches(vm)
        | ControlRequest::Abandon { vm, .. }
        | ControlRequest::GiveUp { vm, .. }
        | ControlRequest::Rights { vm, .. } => Some(*vm),
        _ => None,
    }
}
