//! Enabling replication, and what the chosen node has of the VM then.

use landfall_proto::Refusal;

use crate::demo::props::WORKLOAD;
use crate::demo::story::{R_CAP, Story, short};
use crate::demo::until::{check, io, not_so};
use crate::surface::vm::{PassedOver, VmDetail};
use crate::vm_service::VmService;

/// The command that enables replication of the story's VM.
pub const ENABLE: &[&str] = &["vm", "enable", WORKLOAD, "--to", R_CAP, "--frequency", "30", "--recovery-points", "4"];

/// Enables replication of the VM and looks at the chosen node.
pub async fn play(story: &Story) -> Result<(), Refusal> {
    let enabled: VmDetail = story.run("p1", ENABLE).await?;
    let chosen = holder(&enabled)?;
    story.stage.saw(&format!("chosen: {chosen}; {}", reasons(&enabled.passed_over)));
    let others = ["r1", "r2", "rw"].into_iter().filter(|node| *node != chosen);
    for other in others {
        check(enabled.passed_over.iter().any(|node| node.node.as_str() == other), || {
            format!("nothing says why {other} was not chosen: {:?}", enabled.passed_over)
        })?;
    }
    let file = story.registration(&chosen)?;
    let text = std::fs::read_to_string(&file).map_err(|error| io(&file, &error))?;
    check(text.contains("role = \"replica\"") && !text.contains("command"), || {
        format!("{} does not describe a replica: {text}", file.display())
    })?;
    story.stage.saw(&format!("{chosen} has registered it: vms/{}/vm.toml says role = \"replica\"", story.workload.id));
    match story.cast.at(&chosen)?.vm_service().start(story.workload.id).await {
        Err(refusal) if refusal.code == "vm_is_replica" => {
            story.stage.saw(&format!("started there by hand, it is refused: {refusal}"));
            Ok(())
        }
        other => Err(not_so(format!("{chosen}'s VM service answers a start with {other:?}"))),
    }
}

/// The node that receives a VM's replica.
pub fn holder(vm: &VmDetail) -> Result<String, Refusal> {
    let host = vm.status.replica_host.as_deref().map(|host| short(host).to_owned());
    host.ok_or_else(|| not_so(format!("{} has no replica host", vm.status.name)))
}

/// Why nodes were not taken, in one line.
pub fn reasons(passed_over: &[PassedOver]) -> String {
    let each = passed_over.iter().map(|node| format!("not {}, it {}", node.node, node.reason));
    each.collect::<Vec<_>>().join("; ")
}
