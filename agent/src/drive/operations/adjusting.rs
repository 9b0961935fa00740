//! `vm set`: what is changed of a running replication.

use landfall_proto::model::Command;
use landfall_proto::{Class, Refusal};

use super::pausing::{sent_from_here, told};
use super::vms::show;
use crate::drive::control::Control;
use crate::surface::vm::{VmDetail, VmSelector};
use crate::surface::vm_set::VmSet;

/// Changes interval, points or limit of a VM. The other side is asked first, so that a refusal there leaves nothing behind
/// here; a change here that then fails is made by the same command once more.
pub async fn set(control: &Control, vm: &VmSelector, request: VmSet) -> Result<VmDetail, Refusal> {
    let VmSet { frequency_seconds, recovery_points, limit } = request;
    if frequency_seconds.is_none() && recovery_points.is_none() && limit.is_none() {
        return Err(Refusal::new(Class::Usage, "nothing_to_set", "nothing is to be changed")
            .field("limit")
            .remedy("give --limit, --frequency or --recovery-points"));
    }
    let id = sent_from_here(control, vm).await?;
    let state = control.node.state();
    let primary = state.primaries.get(&id).ok_or_else(|| Refusal::not_found("vm", &id.to_string()))?;
    let frequency = frequency_seconds.unwrap_or(primary.frequency);
    let points = recovery_points.map_or(primary.recovery_points, |points| points.get());
    if (frequency, points) != (primary.frequency, primary.recovery_points) {
        control.senders.place(&primary.to, &primary.vm, frequency, points).await?;
    }
    let recovery_points = recovery_points.map(|points| points.get());
    let command = Command::Adjust { vm: id, frequency: frequency_seconds, recovery_points, limit };
    control.node.proposer.commit(command).await?;
    told(control, id, "replication_changed", "is replicated in another way from now on");
    show(control, &id.into()).await
}
