//! Random commands: what must hold after each of them, and that a log has one meaning.

use std::collections::BTreeMap;

use landfall_proto::id::{Epoch, Fqdn, MemberId, RequestId, SenderEpoch, VmId};
use landfall_proto::model::{Command, Frequency, Outcome, Replica, TicketKind, VmSpec};
use proptest::prelude::*;

use super::State;
use super::fixture::{Bench, cap, entry, name, peer, vm};
use crate::limits;

/// A command in outline: numbers are taken modulo what there is.
#[derive(Clone, Copy, Debug)]
struct Move {
    kind: u8,
    vm: u8,
    one: u8,
    two: u8,
    /// Whether the epoch named is the current one.
    current: bool,
    request: Option<(u8, u8)>,
}

/// Enables a VM towards a cluster.
fn enabling(vm: VmSpec, to: Fqdn) -> Command {
    Command::Enable {
        vm: Box::new(vm),
        to,
        frequency: Frequency::FiveMinutes,
        recovery_points: 0,
        starts_at: None,
        limit: None,
        excluded: Vec::new(),
    }
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let request = prop_oneof![3 => Just(None), 1 => (0u8..3, 1u8..60).prop_map(Some)];
    let one = (0u8..28, 0u8..4, any::<u8>(), any::<u8>(), prop::bool::weighted(0.8), request)
        .prop_map(|(kind, vm, one, two, current, request)| Move { kind, vm, one, two, current, request });
    prop::collection::vec(one, 1..120)
}

struct World {
    bench: Bench,
    /// Epochs of each replica in the order in which they were current.
    epochs: BTreeMap<VmId, Epoch>,
    sender_epochs: BTreeMap<VmId, SenderEpoch>,
    keys: u8,
}

impl World {
    fn new() -> Self {
        let (bench, _) = Bench::ready();
        Self { bench, epochs: BTreeMap::new(), sender_epochs: BTreeMap::new(), keys: 10 }
    }

    fn member(&self, number: u8) -> MemberId {
        let ids: Vec<_> = self.bench.state.members.keys().copied().collect();
        // Now and then one that does not exist.
        ids.get(number as usize % (ids.len() + 1)).copied().unwrap_or(MemberId::from_number(40_000))
    }

    /// Admits whoever copies the replica, else `one`, which nobody asked.
    fn admission(&self, vm: VmId, epoch: Epoch, one: MemberId) -> Command {
        let replica = self.bench.state.replicas.get(&vm);
        let member = replica.and_then(|replica| replica.joiner.map(|joiner| joiner.member)).unwrap_or(one);
        let begun = replica.and_then(|replica| replica.copying_since(member)).unwrap_or_default();
        Command::Admit { vm, epoch, member, begun }
    }

    fn command(&mut self, step: Move) -> Command {
        let spec = Box::new(vm(step.vm.into()));
        let id = spec.id;
        let state = &self.bench.state;
        let current = state.replicas.get(&id).map_or(Epoch::default(), |replica| replica.epoch);
        let epoch = if step.current { current } else { Epoch::from_number(step.two.into()) };
        let primary = cap(if step.one.is_multiple_of(3) { 'q' } else { 'p' });
        let (one, two) = (self.member(step.one), self.member(step.two));
        let pattern = ["p-broker-cap.contoso.com", "q-broker-cap.contoso.com", "*.contoso.com", "*"];
        match step.kind {
            0..=3 => Command::Place {
                vm: spec,
                primary,
                holder: one,
                frequency: Frequency::HalfMinute,
                recovery_points: step.two % 27,
                instead_of: step.current.then_some(current),
                lineage: None,
            },
            4 => Command::Copy { vm: id, epoch, to: (!step.two.is_multiple_of(5)).then_some(one) },
            5 => self.admission(id, epoch, one),
            6 | 7 => Command::Acknowledged { vm: id, epoch },
            8 => Command::Handover { vm: id, epoch, to: (!step.two.is_multiple_of(3)).then_some(one) },
            9 | 10 => Command::Assign { vm: id, epoch, to: one },
            11 => Command::Seed { vm: id, epoch, to: one },
            12 => Command::Seeded { vm: id, epoch },
            13 => Command::RemoveReplica { vm: id, primary: step.current.then_some(primary) },
            14 => Command::Remove(one),
            15 => {
                self.keys = self.keys.wrapping_add(1).max(10);
                let _ = self.bench.run(Command::RevokeTicket(1));
                self.bench.ticket(1, TicketKind::Join { witness: step.two.is_multiple_of(4), replaces: None });
                self.bench.asks_to_join(1, &format!("n{}", self.keys), self.keys)
            }
            16 => Command::Authorize(entry(pattern[step.one as usize % 4], ["T1", "T2"][step.two as usize % 2])),
            17 => Command::Deauthorize(name(pattern[step.one as usize % 4])),
            18 => Command::Pair {
                peer: Box::new(peer(if step.current { 'p' } else { 'q' }, step.two.into())),
                ticket: None,
            },
            19 => Command::Unpair(primary),
            20 => Command::Set {
                changes: [("apply_vm_limit".to_owned(), Some(step.two.to_string()))].into(),
                expect: step.current.then_some(state.revision()),
                by: "prop".into(),
            },
            21 => enabling(vm(100 + u128::from(step.vm)), primary),
            22 => {
                let vm = vm(100 + u128::from(step.vm)).id;
                let epoch = state.primaries.get(&vm).map(|primary| primary.sender_epoch).unwrap_or_default();
                Command::ClaimSender { vm, member: one, epoch, down: step.two.is_multiple_of(2) }
            }
            23 => Command::ReleaseSender { vm: vm(100 + u128::from(step.vm)).id, member: one },
            kind => {
                let vm = if step.current { id } else { vm(100 + u128::from(step.vm)).id };
                match kind {
                    24 => Command::Pause(vm),
                    25 => Command::Resume(vm),
                    26 => Command::Resync(vm),
                    _ => Command::Leave { vm: id, epoch, member: two },
                }
            }
        }
    }

    fn step(&mut self, step: Move) {
        let command = self.command(step);
        let before = self.bench.state.clone();
        let request =
            step.request.map(|(session, sequence)| RequestId { session: session.into(), sequence: sequence.into() });
        let removed = matches!(command, Command::RemoveReplica { .. });
        let answer = self.bench.propose(request, command.clone());
        self.check(&before, &command, removed && answer.is_ok());
        if let Ok(Outcome::Placed { replica, created: true }) = &answer
            && request.is_none()
        {
            assert_eq!(Some(&**replica), self.bench.state.replicas.get(&replica.vm.id));
        }
    }

    fn check(&mut self, before: &State, command: &Command, removed: bool) {
        let state = &self.bench.state;
        assert!(state.applied > before.applied);
        let hosts: Vec<_> = state.members.values().filter(|member| !member.witness).map(|member| member.id).collect();
        assert!(!hosts.is_empty() && state.members.len() <= limits::MEMBERS);
        let names: std::collections::BTreeSet<_> = state.members.values().map(|member| &member.node).collect();
        assert_eq!(names.len(), state.members.len(), "names are unique");
        for (id, replica) in state.replicas.iter() {
            assert!(hosts.contains(&replica.holder), "one holder, which is a data node: {command:?} {replica:?}");
            assert!(!replica.acknowledged || replica.in_sync.contains(&replica.holder), "{command:?}: {replica:?}");
            assert!(replica.in_sync.iter().all(|member| hosts.contains(member)));
            assert!(replica.seeding.is_none_or(|node| hosts.contains(&node) && !replica.in_sync.contains(&node)));
            assert!(replica.handover.as_ref().is_none_or(|handover| hosts.contains(&handover.to)));
            let joins = |member| hosts.contains(&member) && !replica.in_sync.contains(&member);
            assert!(replica.joiner.is_none_or(|joiner| joins(joiner.member)), "{command:?}: {replica:?}");
            let elsewhere = replica.handover.is_some() || replica.seeding.is_some();
            assert!(!(replica.joiner.is_some() && elsewhere), "{command:?}: {replica:?}");
            assert!(!state.primaries.contains(id), "never both sides");
            if let Some(old) = before.replicas.get(id) {
                Self::check_succession(old, replica, command);
            }
            let last = self.epochs.insert(*id, replica.epoch).unwrap_or_default();
            assert!(replica.epoch >= last, "epochs rise");
        }
        for (id, _) in before.replicas.iter() {
            assert!(removed || state.replicas.contains(id), "a replica goes only when it is removed");
        }
        for (id, primary) in state.primaries.iter() {
            assert!(primary.sender.is_none_or(|sender| hosts.contains(&sender) && !primary.rivals.contains(&sender)));
            let last = self.sender_epochs.insert(*id, primary.sender_epoch).unwrap_or_default();
            let again = primary.sender_epoch == SenderEpoch::default();
            assert!(again || primary.sender_epoch >= last, "sender epochs rise");
            let old = before.primaries.get(id).and_then(|old| old.sender);
            if primary.sender.is_some() && primary.sender != old {
                assert_eq!(primary.sender_epoch.0, state.applied, "another sender is another epoch");
            }
        }
    }

    /// R13: what was acknowledged stays with nodes that have all of it, a seeding one excepted.
    fn check_succession(old: &Replica, new: &Replica, command: &Command) {
        if old.receiver() != new.receiver() {
            assert!(new.epoch > old.epoch, "another receiver is another epoch: {command:?}");
        }
        if new.in_sync.difference(&old.in_sync).any(|member| old.acknowledged && old.copying_since(*member).is_none()) {
            assert!(matches!(command, Command::Seeded { .. }), "nobody joins unasked: {command:?}: {old:?} -> {new:?}");
        }
        if old.acknowledged {
            assert!(new.acknowledged);
            let seeded = old.seeding == Some(new.holder);
            assert!(old.in_sync.contains(&new.holder) || seeded, "{command:?}: {old:?} -> {new:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn invariants_hold_and_a_log_has_one_meaning(moves in moves(), cut in any::<prop::sample::Index>()) {
        let mut world = World::new();
        for step in moves {
            world.step(step);
        }
        let whole = world.bench.state.archive().unwrap();

        let mut replayed = State::default();
        for (position, proposal) in &world.bench.log {
            let _ = replayed.apply(*position, proposal);
        }
        prop_assert_eq!(&replayed.archive().unwrap(), &whole, "another node");

        let cut = cut.index(world.bench.log.len());
        let mut late = State::default();
        for (position, proposal) in &world.bench.log[..cut] {
            let _ = late.apply(*position, proposal);
        }
        let mut late = State::from_archive(&late.archive().unwrap()).unwrap();
        for (position, proposal) in &world.bench.log[cut..] {
            let _ = late.apply(*position, proposal);
        }
        prop_assert_eq!(&late, &world.bench.state);
        prop_assert_eq!(&late.archive().unwrap(), &whole, "a node that began with a snapshot");
    }

    #[test]
    fn damaged_snapshots_are_errors(flip in any::<prop::sample::Index>(), cut in any::<prop::sample::Index>()) {
        let (bench, _) = Bench::ready();
        let mut bytes = bench.state.archive().unwrap();
        prop_assert!(State::from_archive(&bytes[..cut.index(bytes.len())]).map_or(true, |state| state != bench.state));
        let at = flip.index(bytes.len());
        bytes[at] ^= 0x40;
        // It may be another state, but never a panic.
        let _ = State::from_archive(&bytes);
    }
}
