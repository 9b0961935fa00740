//! `cluster recover`: the committed state of a cluster's next life, with one member.
//!
//! Every number that orders something across the clusters (member lists, assignments, sender epochs, the settings'
//! revision) is given anew in the next life, and so is above whatever an older node says later. What only the others had is
//! given up: they are no members any more, and join anew.

use std::collections::BTreeSet;

use landfall_proto::id::{Epoch, MemberId, Position, Revision, SenderEpoch, UnixMillis, VmId};
use landfall_proto::model::{Replica, UnknownRight};
use landfall_proto::{Class, Refusal};

use super::State;

/// The node with which the next life begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survivor {
    /// Its id.
    pub member: MemberId,
    /// The replicas of which it has a complete point.
    pub points: BTreeSet<VmId>,
    /// What its clock reads.
    pub at: UnixMillis,
}

impl State {
    /// Begins the next life at log index `index`, which no entry of an earlier life has. Refused, with nothing changed,
    /// where the survivor is no member that can own the CAP.
    pub fn begin_next_life(&mut self, index: u64, survivor: &Survivor) -> Result<(), Refusal> {
        let me = survivor.member;
        self.require_host(me)?;
        let incarnation = self.incarnation.checked_add(1).ok_or_else(|| {
            Refusal::new(Class::Refused, "too_many_lives", "this cluster was recovered as often as can be counted")
        })?;
        self.incarnation = incarnation;
        let now = Position::new(incarnation, index);
        self.applied = now;
        self.members_changed = now;
        self.settings.revision = Revision(now);
        self.settings.floor = Revision(now);
        self.settings.history.clear();
        self.claim = None;
        self.keep_ca(now, me);
        // One that was revoked may be among them.
        self.tickets = Default::default();
        self.drained.clear();
        // Who joins anew has another id, and the survivor's log goes on at an index that no entry had.
        self.marks = Default::default();
        self.restored = Default::default();
        let others: Vec<MemberId> = self.members.keys().copied().filter(|id| *id != me).collect();
        others.iter().for_each(|id| drop(self.members.take(id)));
        // Before the replicas forget who held them.
        self.mark_rights(survivor);
        self.keep_replicas(now, survivor);
        self.keep_primaries(now, me);
        let tests: Vec<VmId> = self.tests.iter().filter(|(_, test)| test.node != me).map(|(vm, _)| *vm).collect();
        tests.iter().for_each(|vm| drop(self.tests.take(vm)));
        Ok(())
    }

    /// What this cluster may run, it does not know any more. A branch has no right that could be lost, unless nobody knows
    /// whether the node that ran it is off.
    fn mark_rights(&mut self, survivor: &Survivor) {
        let mark = |lost_run| UnknownRight { since: survivor.at, lost_run, decided: None };
        let primaries: Vec<VmId> = self.primaries.keys().copied().collect();
        primaries.into_iter().for_each(|vm| self.unknown_rights.put(vm, mark(false)));
        let replicas: Vec<VmId> = self.replicas.keys().copied().collect();
        for vm in replicas {
            let Some(promotion) = self.promotions.edit(&vm) else {
                self.unknown_rights.put(vm, mark(false));
                continue;
            };
            let lost = promotion.holder != survivor.member;
            promotion.holder = survivor.member;
            if lost || promotion.order.is_some() {
                self.unknown_rights.put(vm, mark(lost));
            }
        }
    }

    /// Every replica is held by the survivor, under a new epoch; what it has of it is what there is.
    fn keep_replicas(&mut self, now: Position, survivor: &Survivor) {
        let me = survivor.member;
        let vms: Vec<VmId> = self.replicas.keys().copied().collect();
        for vm in vms {
            let Some(replica) = self.replicas.edit(&vm) else { continue };
            let has = survivor.points.contains(&vm);
            if replica.holder != me {
                self.returns.take(&vm);
            }
            replica.holder = me;
            replica.in_sync = if has { BTreeSet::from([me]) } else { BTreeSet::new() };
            replica.acknowledged = has;
            replica.epoch = Epoch(now);
            replica.seeding = None;
            replica.handover = None;
            replica.joiner = None;
        }
    }

    fn keep_primaries(&mut self, now: Position, me: MemberId) {
        let vms: Vec<VmId> = self.primaries.keys().copied().collect();
        for vm in vms {
            let Some(primary) = self.primaries.edit(&vm) else { continue };
            primary.sender = primary.sender.filter(|sender| *sender == me);
            primary.sender_epoch = SenderEpoch(now);
            primary.rivals.clear();
        }
    }

    /// What the next life would not have, as one who decides about it wants to know.
    pub fn given_up(&self, survivor: &Survivor) -> GivenUp {
        let me = survivor.member;
        let named = |replica: &&Replica| replica.acknowledged && !survivor.points.contains(&replica.vm.id);
        let elsewhere = |replica: &&Replica| !replica.in_sync.contains(&me) && survivor.points.contains(&replica.vm.id);
        let names = |replicas: Vec<&Replica>| replicas.into_iter().map(|replica| replica.vm.name.to_string()).collect();
        let runs = self.promotions.iter().filter(|(_, promotion)| promotion.holder != me);
        GivenUp {
            members: self.members.values().filter(|member| member.id != me).map(|member| member.node.clone()).collect(),
            without_points: names(self.replicas.values().filter(named).collect()),
            older_points: names(self.replicas.values().filter(elsewhere).collect()),
            runs: runs
                .map(|(vm, _)| self.replicas.get(vm).map_or_else(|| vm.to_string(), |one| one.vm.name.to_string()))
                .collect(),
            senders: self
                .primaries
                .values()
                .filter(|primary| primary.sender.is_some_and(|sender| sender != me))
                .map(|primary| primary.vm.name.to_string())
                .collect(),
            hand_overs: self
                .departures
                .keys()
                .filter_map(|vm| self.primaries.get(vm))
                .map(|primary| primary.vm.name.to_string())
                .collect(),
        }
    }
}

/// What begins anew, or is lost, with a cluster's next life.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GivenUp {
    /// Members that are none any more.
    pub members: Vec<landfall_proto::id::NodeName>,
    /// Replicas of which the survivor has no point.
    pub without_points: Vec<String>,
    /// Replicas of which the survivor has points, and others may have newer ones.
    pub older_points: Vec<String>,
    /// VMs that were failed over to a node that is given up.
    pub runs: Vec<String>,
    /// VMs that ran at a node that is given up.
    pub senders: Vec<String>,
    /// VMs of this cluster with a planned failover under way.
    pub hand_overs: Vec<String>,
}
