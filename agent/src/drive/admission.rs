//! What a caller is, looked up when it asks; and refusing it, which is told.

use landfall_proto::id::VmId;
use landfall_proto::trust::Caller;
use landfall_proto::verb::{Party, Verb};
use landfall_proto::{Class, Refusal};
use landfall_store::State;

use crate::drive::node::Node;

/// Everything that `caller` is by the committed state, where it asks about `vm`.
pub fn parties(state: &State, caller: &Caller, vm: Option<VmId>) -> Vec<Party> {
    let own = |witness: bool| vec![if witness { Party::Witness } else { Party::Member }];
    let cap = match caller {
        Caller::Member { member } => return own(member.witness),
        Caller::Stranger { .. } => return vec![Party::Stranger],
        Caller::PeerNode { cap, .. } => cap,
        // Its connection is older than the list that has it, and is looked at anew in a moment.
        Caller::Unlisted { cap, key, .. } => {
            if let Some(member) = state.members.values().find(|member| member.key == *key) {
                return own(member.witness);
            }
            match state.peers.get(cap) {
                Some(peer) if peer.list.by_key(key).is_some() => cap,
                _ => return vec![Party::Newcomer],
            }
        }
    };
    let Some(vm) = vm else { return vec![Party::Paired] };
    let (sent_here, kept_there) = (state.replicas.get(&vm), state.primaries.get(&vm));
    let primary = sent_here.is_some_and(|replica| replica.primary == *cap).then_some(Party::Primary);
    let keeper = kept_there.is_some_and(|primary| primary.to == *cap).then_some(Party::Keeper);
    match (primary, keeper) {
        (None, None) if sent_here.is_none() && kept_there.is_none() => vec![Party::Paired],
        (None, None) => vec![Party::Outsider],
        (primary, keeper) => primary.into_iter().chain(keeper).collect(),
    }
}

/// Refuses `caller` what it may not ask for.
pub fn admit(node: &Node, caller: &Caller, verb: Verb, vm: Option<VmId>) -> Result<(), Refusal> {
    if verb.is_allowed(&parties(&node.state(), caller, vm)) {
        return Ok(());
    }
    let refusal =
        not_allowed(caller, verb).remedy("only nodes of this cluster, or the clusters of that VM, may ask for it");
    node.events.refuse("request_refused", &who(caller), &refusal.message);
    Err(refusal)
}

/// What `caller` is told that may not do `verb`.
pub fn not_allowed(caller: &Caller, verb: Verb) -> Refusal {
    Refusal::new(Class::Refused, "not_allowed", format!("{} may not {} here", who(caller), verb.what()))
}

/// How a caller is named to people.
pub fn who(caller: &Caller) -> String {
    match caller {
        Caller::Member { member } => member.node.to_string(),
        Caller::PeerNode { member, .. } => member.fqdn.to_string(),
        Caller::Unlisted { fqdn, .. } => fqdn.to_string(),
        Caller::Stranger { .. } => "an unknown node".to_owned(),
    }
}
