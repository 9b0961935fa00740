//! Whose words a command is: what a member may have committed, by its own name.
//!
//! Any agent takes any operator's command and a primary's question, so most of what is proposed may come from any member.
//! What a node says of itself comes from that node only, what a replica's holder says from its holder, and what an owner
//! decides from nobody else: a member that has gone bad can neither make itself the holder of a replica, nor the sender of
//! another's VM, nor take the CAP.

use landfall_proto::id::{MemberId, VmId};
use landfall_proto::model::{Command, Member};
use landfall_proto::{Class, Refusal};
use landfall_store::State;

/// Whose a command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaker {
    /// Any member's: an operator may have given it at any agent, or a primary asked it.
    Anyone,
    /// A data node's: witnesses admit nobody.
    DataNode,
    /// The owner's own, which nobody proposes to it.
    Owner,
    /// This member's, about itself.
    Itself(MemberId),
    /// The node's that receives this replica.
    Receiver(VmId),
    /// That node's; or this member's, about itself.
    ReceiverOr(VmId, MemberId),
    /// The node's that sends this VM.
    Sender(VmId),
}

/// Whose `command` is.
pub fn speaker(command: &Command) -> Speaker {
    match command {
        Command::Found(_)
        | Command::Claim(_)
        | Command::Yield(_)
        | Command::Mark(_)
        | Command::Place { .. }
        | Command::Copy { .. }
        | Command::Seed { .. }
        | Command::RotateCa(_) => Speaker::Owner,
        Command::Join { .. } => Speaker::DataNode,
        Command::Readdress { member, .. }
        | Command::ClaimSender { member, .. }
        | Command::Renewed { member, .. }
        | Command::ReleaseSender { member, .. } => Speaker::Itself(*member),
        Command::Assign { vm, .. }
        | Command::Admit { vm, .. }
        | Command::Acknowledged { vm, .. }
        | Command::Seeded { vm, .. } => Speaker::Receiver(*vm),
        Command::Leave { vm, member, .. } => Speaker::ReceiverOr(*vm, *member),
        Command::Reshape(vm) => Speaker::Sender(vm.id),
        Command::Probe
        | Command::AddTicket(_)
        | Command::RevokeTicket(_)
        | Command::Remove(_)
        | Command::Set { .. }
        | Command::Authorize(_)
        | Command::Deauthorize(_)
        | Command::Pair { .. }
        | Command::Relist(_)
        | Command::Unpair(_)
        | Command::Respecify { .. }
        | Command::Handover { .. }
        | Command::RemoveReplica { .. }
        | Command::Enable { .. }
        | Command::Disable(_)
        | Command::Pause(_)
        | Command::Resume(_)
        | Command::Resync(_)
        | Command::Failover { .. }
        | Command::Network(_)
        | Command::Adjust { .. }
        | Command::Drain { .. }
        | Command::Followed { .. }
        | Command::RetireCa { .. }
        | Command::Follow { .. } => Speaker::Anyone,
    }
}

/// Whether `from` may have `command` committed, as `state` has the replicas and senders. Of a VM that is not known here
/// apply says so.
pub fn check(state: &State, from: &Member, command: &Command) -> Result<(), Refusal> {
    let receives = |vm: &VmId| state.replicas.get(vm).is_none_or(|replica| replica.receiver() == from.id);
    let sends = |vm: &VmId| state.primaries.get(vm).is_none_or(|primary| primary.sender == Some(from.id));
    let (allowed, whose) = match speaker(command) {
        Speaker::Anyone => (true, ""),
        Speaker::DataNode => (!from.witness, "a data node's"),
        Speaker::Owner => (false, "the owner's own"),
        Speaker::Itself(member) => (member == from.id, "another node's"),
        Speaker::Receiver(vm) => (receives(&vm), "the replica's holder's"),
        Speaker::ReceiverOr(vm, member) => (member == from.id || receives(&vm), "the replica's holder's"),
        Speaker::Sender(vm) => (sends(&vm), "the VM's sender's"),
    };
    if allowed {
        return Ok(());
    }
    let message = format!("this command is {whose}: {} may not have it committed", from.node);
    Err(Refusal::new(Class::Refused, "not_allowed", message).field("command"))
}
