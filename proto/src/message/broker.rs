//! `landfall-broker/1`: what a primary asks a CAP. Any agent answers; one that does not own the CAP forwards.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::id::{Epoch, Fqdn, MemberId, NodeName, Position, RequestId, VmId};
use crate::model::{Frequency, PromotionId, VmSpec};
use crate::refusal::Refusal;

/// A question to the broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BrokerRequest {
    /// May I replicate to you?
    Probe,
    /// Find a node for this VM's replica.
    Place(Box<Place>),
    /// Where is the replica of this VM?
    Locate {
        /// The VM.
        vm: VmId,
        /// The answering node must have applied this position; one that is behind waits or forwards.
        at_least: Position,
    },
    /// The primary gives the relationship up.
    Remove {
        /// The request, applied once.
        request: RequestId,
        /// The VM.
        vm: VmId,
    },
    /// The primary's disks or adapters changed.
    Respecify {
        /// The request, applied once.
        request: RequestId,
        /// The VM as it is now.
        vm: Box<VmSpec>,
    },
}

/// A wish for a new replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The request, applied once.
    pub request: RequestId,
    /// The VM.
    pub vm: VmSpec,
    /// The change set interval.
    pub frequency: Frequency,
    /// Older points to keep, 0-24.
    pub recovery_points: u8,
    /// The epoch at which the node placed earlier did not answer, where nothing was acknowledged yet.
    pub instead_of: Option<Epoch>,
    /// The promotion under which the primary runs; `None` for a VM as it was first enabled.
    pub lineage: Option<PromotionId>,
}

/// The broker's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BrokerAnswer {
    /// To [`BrokerRequest::Probe`].
    Ready {
        /// The cluster's CAP.
        cap: Fqdn,
        /// The CAP's own addresses and every agent's: what a client should remember of this CAP.
        agents: Vec<SocketAddr>,
        /// Whether this cluster accepts replication from the asker at all, and if not, why.
        authorized: Result<(), Refusal>,
    },
    /// To Place.
    Placed {
        /// Where.
        at: Location,
        /// Why each other node was not taken.
        passed_over: Vec<PassedOver>,
    },
    /// To Locate.
    Located(Location),
    /// To Remove and Respecify.
    Done {
        /// Where it was committed.
        position: Position,
    },
    /// Another agent owns the CAP; ask there.
    Owner {
        /// Its control address.
        control: SocketAddr,
    },
    /// Refused or failed; nothing was changed.
    Refused(Refusal),
}

/// Where a replica is received.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Location {
    /// The node's name.
    pub node: NodeName,
    /// Its member id.
    pub member: MemberId,
    /// Its data address.
    pub data: SocketAddr,
    /// The assignment: a primary follows the highest it has seen.
    pub epoch: Epoch,
    /// The answering node's applied position, for the next `at_least`.
    pub position: Position,
}

/// A node that was not chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassedOver {
    /// The node.
    pub node: NodeName,
    /// Why: `not drawn` where it would have done.
    pub reason: String,
}
