//! Failover: what is asked for, what it would do, and how far it is.

use landfall_proto::id::{Fqdn, NodeName, VmId};
use landfall_proto::model::Side;
use serde::{Deserialize, Serialize};

use crate::surface::failure::ErrorBody;
use crate::surface::{Utc, WaitSeconds};

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailoverAction {
    /// Runs a copy from a point beside the replication that goes on; at the replica's cluster.
    Test,
    /// Ends that and leaves nothing of it; at the replica's cluster.
    StopTest,
    /// Stops the VM, sends its last changes and hands over the right to run it; at the primary's cluster.
    Planned,
    /// Runs the replica from a point without asking the primary; at the replica's cluster.
    Unplanned,
    /// Makes a failover final: the other points go; at the replica's cluster.
    Complete,
    /// Takes a failover back; at the cluster where it was begun.
    Cancel,
    /// Replicates the other way; at the cluster where the VM runs now.
    Reverse,
    /// Chooses between two branches; at either cluster.
    Resolve,
    /// Removes a branch that gave way; at the cluster that keeps it.
    Discard,
}

/// `failover`: one of its verbs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailoverRequest {
    /// The verb.
    pub action: FailoverAction,
    /// The point to begin with; the newest where none is given. For `test` and `unplanned` only.
    #[serde(default)]
    pub point: Option<u64>,
    /// The VM's name, typed by whoever is sure: `planned` and `unplanned` want it, or `yes`.
    #[serde(default)]
    pub name: Option<String>,
    /// Asks for no name.
    #[serde(default)]
    pub yes: bool,
    /// Fails over although the primary answers and runs, or the point is damaged. For `unplanned` only.
    #[serde(default)]
    pub force: bool,
    /// Begins from a point that nobody has read back without reading it first. For `test` and `unplanned` only.
    #[serde(default)]
    pub skip_verify: bool,
    /// The branch to keep, as the asked cluster calls it. For `resolve` only.
    #[serde(default)]
    pub keep: Option<Side>,
    /// The branch to remove, 32 hex digits. For `discard` only.
    #[serde(default)]
    pub branch: Option<String>,
    /// Only says what would be done.
    #[serde(default)]
    pub dry_run: bool,
    /// Wait until it is so.
    #[serde(default)]
    pub wait_seconds: Option<WaitSeconds>,
}

/// Which failover it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailoverWord {
    /// A copy beside the replication.
    Test,
    /// The right to run was handed over.
    Planned,
    /// A branch.
    Unplanned,
}

/// `failover status`: how far a failover is, as the asked cluster knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverStatus {
    /// The VM.
    pub uuid: VmId,
    /// Its name: data only.
    pub name: String,
    /// Which one; null where there is none.
    pub kind: Option<FailoverWord>,
    /// How far it is: `none`; at the replica's cluster `preparing`, `starting`, `running`, `stopped`, `stopping`,
    /// `completed`, `reversing`, `abandoning`, `returning`; at the primary's `stopping`, `sending`, `released`, `recalling`,
    /// `departed`, `branched`, `yielded`; at either `unknown`, after `cluster recover`, until it is known which cluster may
    /// run the VM.
    pub step: String,
    /// Whether this cluster has the right to run the VM.
    pub right_to_run: bool,
    /// The promotion, 32 hex digits.
    pub promotion: Option<String>,
    /// The point that it began with.
    pub point: Option<u64>,
    /// When that point was last read back and found whole; null where it is unverified.
    pub point_verified_at: Option<Utc>,
    /// When it began.
    pub started_at: Option<Utc>,
    /// The age of the point when it began.
    pub loss_seconds: Option<u64>,
    /// Bytes of changes in newer points; what was never sent cannot be known.
    pub loss_bytes: Option<u64>,
    /// The node that does it.
    pub node: Option<NodeName>,
    /// The VM that runs: for a test one of its own.
    pub run_vm: Option<VmId>,
    /// The promotion that this one, or the VM, descends from; null for the VM as it was first enabled.
    pub parent: Option<String>,
    /// A branch of the VM that the other cluster runs.
    pub branch: Option<FailoverBranch>,
    /// Branches that gave way to another one and are kept here until an operator removes them, each a folder `branch-<id>`
    /// of the replica: see `discard`.
    pub branches: Vec<String>,
    /// Whether a test runs, beside whatever else is said here.
    pub test: bool,
    /// What went wrong, while it lasts.
    pub fault: Option<ErrorBody>,
}

/// A branch of a VM at the other cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverBranch {
    /// Its promotion, 32 hex digits.
    pub promotion: String,
    /// The cluster that runs it.
    pub at: Fqdn,
    /// The point that it began with.
    pub point: u64,
    /// When this cluster learnt of it.
    pub since: Utc,
    /// Which branch is to be kept, once that is decided.
    pub keep: Option<Side>,
}

/// The answer to `dry_run`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverPlan {
    /// The VM.
    pub uuid: VmId,
    /// Its name: data only.
    pub name: String,
    /// What was asked for.
    pub action: FailoverAction,
    /// The point that it would begin with.
    pub point: Option<u64>,
    /// The instant of that point, by the sender's clock.
    pub taken_at: Option<Utc>,
    /// When that point was last read back and found whole; null where it is unverified.
    pub verified_at: Option<Utc>,
    /// The node that would do it.
    pub node: Option<NodeName>,
    /// How much of the VM's time would be lost.
    pub loss_seconds: Option<u64>,
    /// Bytes of changes in newer points that would be lost.
    pub loss_bytes: Option<u64>,
    /// The command that would be started, as the primary has it; its images are replaced.
    pub command: Vec<String>,
    /// What would be done, in order.
    pub steps: Vec<String>,
    /// What to think of before.
    pub warnings: Vec<String>,
    /// Why it would be refused.
    pub blockers: Vec<ErrorBody>,
}

/// The answer to a failover verb.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FailoverAnswer {
    /// To `dry_run`.
    Plan(Box<FailoverPlan>),
    /// To everything else.
    Status(Box<FailoverStatus>),
}
