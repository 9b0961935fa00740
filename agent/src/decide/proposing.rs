//! Whose words a command is: what a member may have committed, by its own name.
//!
//! Any agent takes any operator's command and a primary's question, so most of what is proposed may come from any member.
//! What a node says of itself comes from that node only, what a replica's holder says from its holder, and what an owner
//! decides from nobody else: a member that has gone bad can neither make itself the holder of a replica, nor the sender of
//! another's VM, nor take the CAP. The node that carries out what an owner orders looks again: whether that one is the owner
//! still.

use landfall_proto::id::{MemberId, Term, VmId};
use landfall_proto::model::{Command, Member};
use landfall_proto::planted::{self, Bug};
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
        | Command::HalfEnded { .. }
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
    if allowed || planted::is(Bug::ProposalsTakenFromAnybody) {
        return Ok(());
    }
    let message = format!("this command is {whose}: {} may not have it committed", from.node);
    Err(Refusal::new(Class::Refused, "not_allowed", message).field("command"))
}

/// Refuses what is ordered under `term` where this node has applied the claim of a later one, `newest` (R1).
pub fn check_term(newest: Option<Term>, term: Term) -> Result<(), Refusal> {
    let Some(newest) = newest.filter(|newest| term < *newest && !planted::is(Bug::OldTermCarriedOut)) else {
        return Ok(());
    };
    let message = format!("term {term} is over: this node has applied {newest}");
    Err(Refusal::new(Class::Refused, "stale_term", message).field("term"))
}

#[cfg(test)]
mod tests {
    use landfall_proto::codec;
    use landfall_proto::id::{Position, SenderEpoch, UnixMillis};
    use landfall_proto::model::{AuthorizationEntry, CaLine, Found, Frequency, MemberList, Peer, Proposal, VmSpec};
    use serde::de::DeserializeOwned;

    use super::*;

    /// Whose every command is, written down a second time. Whoever changes a right changes it here as well.
    const TABLE: &str = "
        Found owner          Claim owner          Yield owner         Mark owner           Place owner
        Copy owner           Seed owner           RotateCa owner      Join data            Readdress itself
        ClaimSender itself   ReleaseSender itself Renewed itself      Assign holder        Admit holder
        Acknowledged holder  Seeded holder        Leave holder+itself Reshape sender       Probe any
        AddTicket any        RevokeTicket any     Remove any          Set any              Authorize any
        Deauthorize any      Pair any             Relist any          Unpair any           Respecify any
        Handover any         RemoveReplica any    Enable any          Disable any          Pause any
        Resume any           Resync any           Failover any        Network any          Adjust any
        Drain any            Followed any         RetireCa any        Follow any           HalfEnded any
    ";

    /// The messages of a file of golden bytes.
    fn golden<T: DeserializeOwned>(mut file: &[u8]) -> Vec<T> {
        let mut all = Vec::new();
        while let Some((length, rest)) = file.split_first_chunk::<4>() {
            let (bytes, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
            all.push(codec::decode(bytes).unwrap());
            file = rest;
        }
        all
    }

    fn id(number: u64) -> MemberId {
        MemberId::from_number(number)
    }

    /// The one that holds the replica, or sends the VM, of every command; the one that every command is about; others.
    const PART: u64 = Found::FOUNDER.number();
    const ABOUT: u64 = 3;
    const OTHER: u64 = 77;
    const WITNESS: u64 = 78;

    /// A cluster whose founder keeps the replica of `vm`, or sends it.
    fn state(vm: &VmSpec, sends: bool) -> State {
        let mut state = State::default();
        let mut peer: Peer = golden(include_bytes!("../../../proto/tests/golden/peer.bin")).remove(0);
        peer.list.members.truncate(1);
        (peer.ca, peer.line) = (vec![8; 300], CaLine::of(vec![8; 300]));
        let found: Found = golden(include_bytes!("../../../proto/tests/golden/found.bin")).remove(0);
        let cap = peer.list.cap.clone();
        let found = Found { cap: "own.contoso.com".parse().unwrap(), ca: vec![7; 300], cap_address: None, ..found };
        let (vm, frequency, recovery_points) = (Box::new(vm.clone()), Frequency::HalfMinute, 4);
        let (storage, trust_group) = ("default".parse().unwrap(), "T".parse().unwrap());
        let switched_on = [("replication_enabled".to_owned(), Some("true".to_owned()))].into();
        let mut commands = vec![
            Command::Found(Box::new(found)),
            Command::Claim(Found::FOUNDER),
            Command::Set { changes: switched_on, expect: None, by: "root".to_owned() },
            Command::Pair { peer: Box::new(peer), ticket: None },
            Command::Authorize(AuthorizationEntry { primary: cap.as_str().parse().unwrap(), storage, trust_group }),
        ];
        let (member, id, down) = (Found::FOUNDER, vm.id, false);
        if sends {
            let (starts_at, limit, excluded) = (None, None, Vec::new());
            commands.push(Command::Enable { vm, to: cap, frequency, recovery_points, starts_at, limit, excluded });
            commands.push(Command::ClaimSender { vm: id, member, epoch: SenderEpoch::default(), down });
        } else {
            let (primary, holder, instead_of, lineage) = (cap, member, None, None);
            commands.push(Command::Place { vm, primary, holder, frequency, recovery_points, instead_of, lineage });
        }
        for (index, command) in (1..).zip(commands) {
            let proposal = Proposal { request: None, at: UnixMillis(1), term: state.term(), command };
            state.apply(Position::new(0, index), &proposal).unwrap();
        }
        state
    }

    #[test]
    fn every_command_is_taken_from_exactly_those_whose_it_is() {
        let words: Vec<&str> = TABLE.split_whitespace().collect();
        let whose: std::collections::BTreeMap<&str, &str> = words.chunks(2).map(|pair| (pair[0], pair[1])).collect();
        let commands: Vec<Command> = golden(include_bytes!("../../../proto/tests/golden/command.bin"));
        let list: MemberList = golden(include_bytes!("../../../proto/tests/golden/member_list.bin")).remove(0);
        let member = |number| {
            let member = list.members[0].clone();
            Member { id: id(number), witness: number == WITNESS, ..member }
        };
        let vm = commands.iter().find_map(|command| match command {
            Command::Reshape(vm) => Some(vm.clone()),
            _ => None,
        });
        let states = [false, true].map(|sends| state(vm.as_ref().unwrap(), sends));
        let mut seen = std::collections::BTreeSet::new();
        for command in &commands {
            let shown = format!("{command:?}");
            let name = shown.split(|c: char| !c.is_alphanumeric()).next().unwrap();
            let whose = *whose.get(name).unwrap_or_else(|| panic!("{name} is not in the table"));
            seen.insert(name.to_owned());
            for caller in [PART, ABOUT, OTHER, WITNESS] {
                let allowed = match whose {
                    "any" => true,
                    "data" => caller != WITNESS,
                    "itself" => caller == ABOUT,
                    "holder" | "sender" => caller == PART,
                    "holder+itself" => caller == PART || caller == ABOUT,
                    _ => false,
                };
                let checked = check(&states[usize::from(whose == "sender")], &member(caller), command);
                assert_eq!(checked.is_ok(), allowed, "{name} by {caller}: {checked:?}");
            }
        }
        assert_eq!(seen.len(), whose.len(), "every command has a sample");
    }

    #[test]
    fn what_was_ordered_under_a_term_that_is_over_is_not_carried_out() {
        let term = |index| Term(Position::new(0, index));
        assert_eq!((check_term(None, term(7)), check_term(Some(term(7)), term(7))), (Ok(()), Ok(())));
        assert_eq!(check_term(Some(term(7)), term(9)), Ok(()), "this node may be behind");
        let refused = check_term(Some(term(9)), term(7)).expect_err("carried out under an older term");
        assert_eq!((refused.code.as_str(), refused.field.as_deref()), ("stale_term", Some("term")));
    }
}
