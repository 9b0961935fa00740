//! How many nodes have a replica, and which one becomes the next.
//!
//! The setting `copies` says how many nodes are to have every acknowledged byte. Where a replica has fewer, the owner has
//! one more node copy it, chosen like the node of a new replica; where it has more, one leaves. A node that cannot go on
//! in the holder's place (drained, its VM service or its storage out of order) is replaced where another can be found, and
//! stays where none can: what it has is worth more than nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use landfall_proto::id::{MemberId, StorageName, VmId};
use landfall_proto::message::broker::PassedOver;
use landfall_proto::model::Replica;
use landfall_proto::seam::Time;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;

use super::placement::{self, Candidate, Standing, Wish};

/// How long a node that has left a set, or was given up while it copied, is not asked again: it failed a moment ago, and
/// each time that it fails anew the primary waits for it.
pub const REST: Duration = Duration::from_secs(10);

/// What the owner does about the copies of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// This node copies the replica, to join the in-sync set.
    Copy(MemberId),
    /// The node that copies it does so no more.
    GiveUp,
    /// This node leaves the in-sync set.
    Leave(MemberId),
}

/// What is known of the nodes when one replica is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    /// Every member.
    pub candidates: &'a [Candidate],
    /// Those that are held for dead.
    pub down: &'a BTreeSet<MemberId>,
    /// Those that could not take over from the holder for long enough: see [`Ledger`].
    pub unfit: &'a BTreeSet<MemberId>,
    /// Those that rest: see [`Ledger`].
    pub resting: &'a BTreeSet<MemberId>,
}

/// Why `candidate`, which has the replica, could not go on in its holder's place.
pub fn complaint(candidate: &Candidate, storage: &StorageName) -> Option<String> {
    if candidate.drained {
        return Some("is drained".to_owned());
    }
    if let Some(fault) = &candidate.vm_service_fault {
        return Some(format!("VM service {fault}"));
    }
    match candidate.rooms.iter().find(|room| room.name == *storage) {
        None => Some(format!("has no storage location '{storage}'")),
        Some(room) => room.fault.clone(),
    }
}

/// Whether there is anything to decide about `replica` while all of its nodes are well.
pub fn is_short(replica: &Replica, wanted: usize) -> bool {
    replica.acknowledged && (replica.in_sync.len() != wanted || replica.joiner.is_some())
}

/// What to do now about the copies of `replica`, of which `wanted` are wanted, and why each node was not chosen. `seed`
/// decides among those that will do.
pub fn next(
    replica: &Replica,
    wanted: usize,
    promoted: bool,
    site: Site<'_>,
    seed: [u8; 32],
) -> (Option<Step>, Vec<PassedOver>) {
    let nothing = |step| (step, Vec::new());
    if !replica.acknowledged || replica.seeding.is_some() || replica.handover.is_some() {
        return nothing(None);
    }
    if promoted {
        // It is the VM now: what is there stays, and nothing more is made of it.
        return nothing(replica.joiner.map(|_| Step::GiveUp));
    }
    let up = |member: MemberId| {
        let seen = site.candidates.iter().find(|candidate| candidate.member == member);
        !site.down.contains(&member) && seen.is_some_and(|candidate| candidate.standing == Standing::Up)
    };
    if !up(replica.holder) {
        // Whoever holds it next is a matter of node loss, and comes out of this very set.
        return nothing(None);
    }
    let others = || replica.in_sync.iter().copied().filter(|member| *member != replica.holder);
    if let Some(dead) = others().find(|member| site.down.contains(member)) {
        return nothing(Some(Step::Leave(dead)));
    }
    let well = 1 + others().filter(|member| !site.unfit.contains(member)).count();
    if let Some(joiner) = replica.joiner {
        let candidate = site.candidates.iter().find(|candidate| candidate.member == joiner.member);
        let bad = candidate.is_none_or(|candidate| complaint(candidate, &replica.storage).is_some());
        let given_up = bad || site.down.contains(&joiner.member) || well >= wanted;
        return nothing(given_up.then_some(Step::GiveUp));
    }
    if well >= wanted {
        let surplus = replica.in_sync.len() > wanted;
        return nothing(surplus.then(|| one_too_many(replica, site, seed)).flatten().map(Step::Leave));
    }
    let bytes = replica.vm.disks.iter().fold(0u64, |sum, disk| sum.saturating_add(disk.bytes));
    let wish = Wish { storage: replica.storage.clone(), bytes, except: None, even_quarantined: true };
    let has = |candidate: &&Candidate| replica.in_sync.contains(&candidate.member);
    let rests = |candidate: &&Candidate| site.resting.contains(&candidate.member);
    let free: Vec<Candidate> = site.candidates.iter().filter(|one| !has(one) && !rests(one)).cloned().collect();
    let (chosen, mut passed_over) = placement::choose(&free, &wish, seed);
    for candidate in site.candidates.iter().filter(|one| has(one) || rests(one)) {
        let reason = if has(&candidate) { "has it already" } else { "failed a moment ago" };
        passed_over.push(PassedOver { node: candidate.node.clone(), reason: reason.to_owned() });
    }
    (chosen.map(Step::Copy), passed_over)
}

/// Who leaves a set that is too large: one that is not well before one that is.
fn one_too_many(replica: &Replica, site: Site<'_>, seed: [u8; 32]) -> Option<MemberId> {
    let others = || replica.in_sync.iter().copied().filter(|member| *member != replica.holder);
    let unfit: Vec<MemberId> = others().filter(|member| site.unfit.contains(member)).collect();
    let from: Vec<MemberId> = if unfit.is_empty() { others().collect() } else { unfit };
    let at = ChaCha20Rng::from_seed(seed).random_range(0..from.len().max(1));
    from.get(at).copied()
}

/// What an owner remembers of replicas and their nodes from one look to the next.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    members: BTreeMap<VmId, BTreeSet<MemberId>>,
    left: BTreeMap<(VmId, MemberId), Time>,
    complained: BTreeMap<(VmId, MemberId), Time>,
}

impl Ledger {
    /// Takes in what is committed now: who has left since the last look rests from now on.
    pub fn look<'a>(&mut self, replicas: impl IntoIterator<Item = &'a Replica>, now: Time) {
        let mut members = BTreeMap::new();
        for replica in replicas {
            let vm = replica.vm.id;
            let joiner = replica.joiner.map(|joiner| joiner.member);
            let present: BTreeSet<MemberId> = replica.in_sync.iter().copied().chain(joiner).collect();
            for gone in self.members.get(&vm).into_iter().flatten().filter(|member| !present.contains(member)) {
                self.left.insert((vm, *gone), now);
            }
            members.insert(vm, present);
        }
        self.members = members;
        self.left.retain(|_, at| now.since(*at) < REST);
        let members = &self.members;
        self.complained.retain(|(vm, member), _| members.get(vm).is_some_and(|present| present.contains(member)));
    }

    /// Who is not asked to copy `vm` just now.
    pub fn resting(&self, vm: VmId) -> BTreeSet<MemberId> {
        self.left.keys().filter(|(left, _)| *left == vm).map(|(_, member)| *member).collect()
    }

    /// Takes in how the nodes that have `replica` are, and says who has been out of order for `patience`.
    pub fn unfit(
        &mut self,
        replica: &Replica,
        candidates: &[Candidate],
        patience: Duration,
        now: Time,
    ) -> BTreeSet<MemberId> {
        let (vm, mut unfit) = (replica.vm.id, BTreeSet::new());
        for member in replica.in_sync.iter().filter(|member| **member != replica.holder) {
            let seen = candidates.iter().find(|candidate| candidate.member == *member);
            if seen.is_none_or(|candidate| complaint(candidate, &replica.storage).is_none()) {
                self.complained.remove(&(vm, *member));
                continue;
            }
            let since = *self.complained.entry((vm, *member)).or_insert(now);
            if now.since(since) >= patience {
                unfit.insert(*member);
            }
        }
        unfit
    }
}

#[cfg(test)]
#[path = "copies_test.rs"]
mod tests;

#[cfg(test)]
pub(crate) use tests::sample;
