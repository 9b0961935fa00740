//! Members: joining, moving, leaving. An id is the position of the entry that admitted it and is never used again.

use std::net::SocketAddr;

use landfall_proto::id::{Epoch, Fingerprint, Fqdn, MemberId, NodeName, VmId};
use landfall_proto::model::{Answer, Member, Outcome, Replica, TicketKind};
use landfall_proto::planted::{self, Bug};
use landfall_proto::{Class, Refusal};

use super::cluster::check_own;
use super::ticket::Purpose;
use super::{Entry, State};
use crate::limits;

/// A node that asks to be admitted.
pub(super) struct Newcomer<'a> {
    pub(super) key: Fingerprint,
    pub(super) node: &'a NodeName,
    pub(super) fqdn: &'a Fqdn,
    pub(super) control: SocketAddr,
    pub(super) data: SocketAddr,
}

impl State {
    /// The member `id`, or a refusal.
    pub(super) fn require_member(&self, id: MemberId) -> Result<&Member, Refusal> {
        self.members.get(&id).ok_or_else(|| {
            Refusal::new(Class::Refused, "not_a_member", format!("member {id} does not exist any more")).field("member")
        })
    }

    /// The member `id`, provided that it can keep VMs.
    pub(super) fn require_host(&self, id: MemberId) -> Result<&Member, Refusal> {
        let member = self.require_member(id)?;
        if member.witness {
            let message = format!("{} is a witness, which hosts no VM and no replica", member.node);
            return Err(Refusal::new(Class::Refused, "witness", message).field("node"));
        }
        Ok(member)
    }

    /// The member `id`, provided that it can be given something new to keep.
    pub(super) fn require_taker(&self, id: MemberId) -> Result<&Member, Refusal> {
        let member = self.require_host(id)?;
        if self.drained.contains(&id) {
            let message = format!("{} is drained: it gets nothing new", member.node);
            return Err(Refusal::new(Class::Refused, "drained", message)
                .field("node")
                .remedy(format!("take another node, or end the drain: `landfall node restore {}`", member.node)));
        }
        Ok(member)
    }

    /// Drains a node, or ends that, and vouches for it; what is so already stays so. A witness, which is never drained, can
    /// be vouched for as well.
    pub(super) fn drain(&mut self, entry: Entry, id: MemberId, on: bool) -> Answer {
        if on {
            self.require_host(id)?;
            self.drained.insert(id);
        } else {
            self.require_member(id)?;
            self.drained.remove(&id);
            self.restored.put(id, entry.position);
        }
        Ok(Outcome::Done)
    }

    /// Admits a node that proved a token; the same key asking again gets the same id.
    pub(super) fn join(&mut self, entry: Entry, ticket: u64, newcomer: &Newcomer<'_>) -> Answer {
        let kept = self.usable_ticket(entry, ticket, &newcomer.key, Purpose::Join)?;
        self.check_announced(newcomer.control, newcomer.data)?;
        let used = kept.used_by.is_some() && !planted::is(Bug::TokenTakesSecondKey);
        let TicketKind::Join { witness, replaces } = kept.kind.clone() else {
            return Err(Refusal::new(Class::Refused, "unknown_ticket", "this token admits no node").field("token"));
        };
        let admitted = self.members.values().find(|member| member.key == newcomer.key).cloned();
        if let Some(member) = admitted {
            return self.join_again(entry, ticket, witness, &member, newcomer);
        }
        if used {
            let message = "this token admitted a node that has been removed since";
            return Err(Refusal::new(Class::Refused, "ticket_used", message).field("token").remedy("make a new one"));
        }
        let replaced = self.replaced(replaces.as_ref(), newcomer)?;
        let taken = |member: &Member| member.fqdn == *newcomer.fqdn && Some(member.id) != replaced;
        if let Some(other) = self.members.values().find(|member| taken(member)) {
            let message = format!("{} is the name of member {} already", newcomer.fqdn, other.node);
            return Err(Refusal::new(Class::Refused, "name_taken", message).field("fqdn"));
        }
        match replaced {
            Some(old) => self.check_removable(old, !witness)?,
            None => Self::room(self.members.len(), limits::MEMBERS, "members")?,
        }
        if let Some(old) = replaced {
            self.take_member(entry, old);
        }
        let free = (1..).map(MemberId::from_number).find(|id| !self.members.contains(id));
        let id = free.filter(|_| planted::is(Bug::IdReused)).unwrap_or(MemberId(entry.position));
        let member = Member {
            id,
            node: newcomer.node.clone(),
            fqdn: newcomer.fqdn.clone(),
            key: newcomer.key,
            control: newcomer.control,
            data: newcomer.data,
            witness,
        };
        self.members.put(id, member);
        self.members_changed = entry.position;
        self.use_ticket(ticket, newcomer.key);
        Ok(Outcome::Joined(id))
    }

    /// A key that is a member's already: the lost answer of its own join, or, by another token, an operator's word that the
    /// node may have a certificate again, since its own ended while it slept.
    fn join_again(
        &mut self,
        entry: Entry,
        ticket: u64,
        witness: bool,
        member: &Member,
        newcomer: &Newcomer<'_>,
    ) -> Answer {
        if member.witness != witness || member.node != *newcomer.node || member.fqdn != *newcomer.fqdn {
            let message = format!("this key belongs to member {}", member.node);
            return Err(Refusal::new(Class::Refused, "key_in_use", message)
                .field("key")
                .remedy("a node makes a new key for each cluster that it joins"));
        }
        self.readdress(entry, member.id, newcomer.control, newcomer.data)?;
        self.use_ticket(ticket, newcomer.key);
        Ok(Outcome::Joined(member.id))
    }

    /// The member that the newcomer takes the place of.
    fn replaced(&self, replaces: Option<&NodeName>, newcomer: &Newcomer<'_>) -> Result<Option<MemberId>, Refusal> {
        let namesake = self.member_named(newcomer.node).map(|member| member.id);
        match replaces {
            Some(name) if name != newcomer.node => {
                let message = format!("this token is for node {name}, not for {}", newcomer.node);
                Err(Refusal::new(Class::Refused, "ticket_for_other_node", message).field("node"))
            }
            Some(_) => Ok(namesake),
            None if namesake.is_some() => {
                let message = format!("there is a member called {}", newcomer.node);
                let remedy =
                    format!("give the node another name, or `landfall token create --replaces {}`", newcomer.node);
                Err(Refusal::new(Class::Refused, "name_taken", message).field("node").remedy(remedy))
            }
            None => Ok(None),
        }
    }

    pub(super) fn readdress(&mut self, entry: Entry, id: MemberId, control: SocketAddr, data: SocketAddr) -> Answer {
        let member = self.require_member(id)?;
        self.check_announced(control, data)?;
        if (member.control, member.data) != (control, data)
            && let Some(member) = self.members.edit(&id)
        {
            (member.control, member.data) = (control, data);
            self.members_changed = entry.position;
        }
        Ok(Outcome::Done)
    }

    fn check_announced(&self, control: SocketAddr, data: SocketAddr) -> Result<(), Refusal> {
        check_own(self.found.as_ref().and_then(|found| found.cap_address.as_ref()), control, data)
    }

    pub(super) fn remove_member(&mut self, entry: Entry, id: MemberId) -> Answer {
        self.require_member(id).map_err(|_| Refusal::not_found("node", &id.to_string()))?;
        self.check_removable(id, false)?;
        if let Some(claim) = self.claim
            && claim.member == id
        {
            return Err(Refusal::new(Class::Refused, "is_owner", "this node owns the CAP")
                .field("node")
                .remedy("run `landfall broker move` first, then remove it"));
        }
        self.take_member(entry, id);
        Ok(Outcome::Done)
    }

    /// Refuses to take a member away with the only copy of something, or the last that can own the CAP.
    /// `another` tells that a node which can own it takes this one's place.
    fn check_removable(&self, id: MemberId, another: bool) -> Result<(), Refusal> {
        let hosts = self.members.values().filter(|member| member.id != id && !member.witness).count();
        if hosts == 0 && !another {
            return Err(Refusal::new(Class::Refused, "last_node", "it is the only node that can own the CAP")
                .field("node")
                .remedy("add another node first"));
        }
        let only_copy = |replica: &&Replica| {
            replica.acknowledged && replica.holder == id && replica.in_sync.iter().all(|holder| *holder == id)
        };
        if let Some(replica) = self.replicas.values().find(only_copy) {
            let message = format!("it has the only copy of the replica of {}", replica.vm.name);
            return Err(Refusal::new(Class::Refused, "only_copy", message).field("node").remedy(format!(
                "run `landfall vm move {} --to NODE` first; of a node that is dead for good the replica is filled \
                     elsewhere after rehome_without_copy_after, and then it can go",
                replica.vm.name
            )));
        }
        if let Some(vm) = self.runs_promotion(id) {
            let message = format!("VM {vm} is failed over to it");
            return Err(Refusal::new(Class::Refused, "failed_over", message)
                .field("node")
                .remedy("cancel the failover first, or reverse the replication: `landfall failover status`"));
        }
        Ok(())
    }

    /// Takes a member out of everything that names it.
    fn take_member(&mut self, entry: Entry, id: MemberId) {
        self.members.take(&id);
        self.drained.remove(&id);
        self.marks.take(&id);
        self.restored.take(&id);
        self.members_changed = entry.position;
        let spare = self.members.values().find(|member| !member.witness).map(|member| member.id);
        let named = |replica: &Replica| {
            replica.holder == id
                || replica.in_sync.contains(&id)
                || replica.seeding == Some(id)
                || replica.copying_since(id).is_some()
        };
        let replicas: Vec<VmId> =
            self.replicas.iter().filter(|(_, replica)| named(replica)).map(|(vm, _)| *vm).collect();
        for vm in replicas {
            if let Some(replica) = self.replicas.edit(&vm) {
                leave_replica(replica, entry, id, spare);
            }
        }
        let primaries: Vec<VmId> = self
            .primaries
            .iter()
            .filter(|(_, primary)| primary.sender == Some(id) || primary.rivals.contains(&id))
            .map(|(vm, _)| *vm)
            .collect();
        for vm in primaries {
            if let Some(primary) = self.primaries.edit(&vm) {
                primary.sender = primary.sender.filter(|sender| *sender != id);
                primary.rivals.remove(&id);
            }
        }
    }
}

/// Takes member `id` out of a replica. The replica keeps its data: the next holder is in its in-sync set. One that has
/// no data yet goes to the seeding node, or to `spare`, from which the broker may move it at once.
fn leave_replica(replica: &mut Replica, entry: Entry, id: MemberId, spare: Option<MemberId>) {
    replica.in_sync.remove(&id);
    replica.handover = replica.handover.take().filter(|handover| handover.to != id);
    replica.joiner = replica.joiner.filter(|joiner| joiner.member != id);
    let received = replica.receiver() == id;
    if replica.seeding == Some(id) {
        replica.seeding = None;
    }
    if replica.holder == id {
        let heir = replica.in_sync.first().copied();
        match (heir, replica.seeding) {
            (Some(heir), _) => {
                replica.holder = heir;
                replica.seeding = None;
                replica.joiner = None;
                replica.epoch = Epoch(entry.position);
                return;
            }
            (None, Some(seeding)) => {
                // Nothing was acknowledged: the node being filled simply becomes the holder, at its own epoch.
                replica.holder = seeding;
                replica.seeding = None;
                return;
            }
            (None, None) => replica.holder = spare.unwrap_or(id),
        }
    }
    if received {
        replica.epoch = Epoch(entry.position);
    }
}
