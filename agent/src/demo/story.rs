//! What every step needs: who takes part, how it is told, and the questions that come again and again.

use std::path::PathBuf;
use std::time::Duration;

use landfall_proto::Refusal;
use landfall_proto::message::control::PointState;
use serde::de::DeserializeOwned;

use super::cast::Cast;
use super::pace::Pace;
use super::props::{self, WORKLOAD, Workload};
use super::stage::Stage;
use super::until::{not_so, until};
use crate::cli::client::route;
use crate::guest::Region;
use crate::surface::broker::BrokerStatus;
use crate::surface::node::NodeStatus;
use crate::surface::point::PointStatus;
use crate::surface::vm::{VmDetail, VmLocation};

/// The client access points.
pub const P_CAP: &str = "p-broker-cap.contoso.com";
/// The one that primaries replicate to.
pub const R_CAP: &str = "r-broker-cap.contoso.com";

/// The story so far.
#[derive(Debug)]
pub struct Story {
    /// Where it is told.
    pub stage: Stage,
    /// Who takes part.
    pub cast: Cast,
    /// How large and how fast.
    pub pace: Pace,
    /// The VM it is about.
    pub workload: Workload,
}

impl Story {
    /// Makes the VMs' folders. Nothing runs yet.
    pub fn new(stage: Stage, cast: Cast, pace: Pace) -> Result<Self, Refusal> {
        let workload = props::workload(&cast.at("p1")?.vms(), &pace)?;
        props::others(&cast.at("p3")?.vms())?;
        Ok(Self { stage, cast, pace, workload })
    }

    /// Runs a command line at `node` as a user would, and tells it.
    pub async fn run<T: DeserializeOwned>(&self, node: &str, words: &[&str]) -> Result<T, Refusal> {
        self.stage.command(node, &words.join(" "));
        self.quietly(node, words).await
    }

    /// As [`Story::run`] with one more word, which is a secret and told as `shown`.
    pub async fn run_secret<T: DeserializeOwned>(
        &self,
        node: &str,
        words: &[&str],
        secret: &str,
        shown: &str,
    ) -> Result<T, Refusal> {
        self.stage.command(node, &format!("{} {shown}", words.join(" ")));
        self.quietly(node, &[words, &[secret]].concat()).await
    }

    /// Runs a command line without telling.
    pub async fn quietly<T: DeserializeOwned>(&self, node: &str, words: &[&str]) -> Result<T, Refusal> {
        let data = self.cast.at(node)?.command(words).await?;
        serde_json::from_slice(&data)
            .map_err(|error| not_so(format!("landfall {} answers in another shape: {error}", words.join(" "))))
    }

    /// Runs a command line that must be refused, tells it, and returns the refusal.
    pub async fn refused(&self, node: &str, words: &[&str]) -> Result<Refusal, Refusal> {
        self.stage.command(node, &words.join(" "));
        match self.cast.at(node)?.command(words).await {
            Ok(data) => {
                let data = String::from_utf8_lossy(&data).into_owned();
                Err(not_so(format!("`{}` was not refused but answered {data}", words.join(" "))))
            }
            Err(refusal) => Ok(refusal),
        }
    }

    /// A VM as `node` shows it.
    pub async fn show_vm(&self, node: &str, vm: &str) -> Result<VmDetail, Refusal> {
        self.cast.at(node)?.get(&route(&["vms", vm])).await
    }

    /// The story's VM as `node` shows it.
    pub async fn show(&self, node: &str) -> Result<VmDetail, Refusal> {
        self.show_vm(node, WORKLOAD).await
    }

    /// Where `node` says that the replica is received.
    pub async fn locate(&self, node: &str) -> Result<VmLocation, Refusal> {
        self.cast.at(node)?.get(&route(&["vms", WORKLOAD, "location"])).await
    }

    /// The recovery points as `node` lists them.
    pub async fn points(&self, node: &str) -> Result<Vec<PointStatus>, Refusal> {
        self.cast.at(node)?.get(&route(&["vms", WORKLOAD, "points"])).await
    }

    /// Those of them that can be restored.
    pub async fn listed(&self, node: &str) -> Result<Vec<PointStatus>, Refusal> {
        let points = self.points(node).await?;
        Ok(points.into_iter().filter(|point| point.state == PointState::Listed).collect())
    }

    /// The nodes as `node` sees them.
    pub async fn nodes(&self, node: &str) -> Result<Vec<NodeStatus>, Refusal> {
        self.cast.at(node)?.get("/v1/nodes").await
    }

    /// Waits until `node` names an owner of the CAP that `wanted` takes.
    pub async fn owner(&self, node: &str, limit: Duration, wanted: impl Fn(&str) -> bool) -> Result<String, Refusal> {
        until("an owner of the CAP", limit, async || {
            let status: BrokerStatus = self.cast.at(node)?.get("/v1/broker").await?;
            let owner = status.owner.map(|owner| owner.to_string()).ok_or("none")?;
            if wanted(&owner) { Ok(owner) } else { Err(format!("still {owner}").into()) }
        })
        .await
    }

    /// Waits until a point is acknowledged after `point`, as the primary's node `node` sees it.
    pub async fn next_point(&self, node: &str, after: &VmDetail, limit: Duration) -> Result<VmDetail, Refusal> {
        let before = after.status.last_point_at;
        until("the next recovery point", limit, async || {
            let now = self.show(node).await?;
            if now.status.last_point_at > before { Ok(now) } else { Err(doing(&now).into()) }
        })
        .await
    }

    /// The region that the guest writes on each of its disks.
    pub fn region(&self) -> Region {
        Region { offset: 0, length: self.pace.guest_bytes }
    }

    /// The folder that belongs to the replica on `node`.
    pub fn replica_folder(&self, node: &str) -> Result<PathBuf, Refusal> {
        Ok(self.cast.at(node)?.replicas().join(self.workload.id.to_string()))
    }

    /// Where `node` registers the replica.
    pub fn registration(&self, node: &str) -> Result<PathBuf, Refusal> {
        Ok(self.cast.at(node)?.vms().join(self.workload.id.to_string()).join("vm.toml"))
    }
}

/// What a VM's sender is about, in one line.
pub fn doing(vm: &VmDetail) -> String {
    let activity = vm.activity.as_deref().unwrap_or("no sender");
    let fault = vm.fault.as_ref().map_or(String::new(), |fault| format!(": {}", fault.message));
    let at = vm.status.primary_host.as_deref().unwrap_or("nobody");
    format!("state {:?}, sent by {at}, {activity}{fault}", vm.status.state)
}

/// The first label of a host's name.
pub fn short(host: &str) -> &str {
    host.split('.').next().unwrap_or(host)
}
