//! Replications that were ended here and whose end the cluster that keeps the replica has not been told yet.
//!
//! The wish is committed together with the end itself, so that it outlives every agent; the owner tells the other cluster
//! as soon as that answers. Whoever enables the VM with that cluster again takes the wish back.

use landfall_proto::id::{Fqdn, Position, VmId, VmName};
use landfall_proto::model::{Answer, Outcome, Primary};
use landfall_proto::planted::{self, Bug};
use serde::{Deserialize, Serialize};

use super::{Entry, State};
use crate::limits;

/// A replication that was ended here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Farewell {
    /// The VM's name: data only.
    pub name: VmName,
    /// Where it was ended: which end this is.
    pub at: Position,
}

impl State {
    /// `primary` is ended: its replica's cluster is to be told. Where that is no peer any more, or too many wait, an operator
    /// has to end the other half.
    pub(super) fn remember_farewell(&mut self, entry: Entry, primary: &Primary) {
        if self.peers.contains(&primary.to) && self.farewells.len() < limits::FAREWELLS {
            let farewell = Farewell { name: primary.vm.name.clone(), at: entry.position };
            self.farewells.put((primary.vm.id, primary.to.clone()), farewell);
        }
    }

    /// The cluster `cap` has ended its half of the replication of `vm` that was ended here `at`, or never will.
    pub(super) fn half_ended(&mut self, vm: VmId, cap: &Fqdn, at: Position) -> Answer {
        let key = (vm, cap.clone());
        if self.farewells.get(&key).is_some_and(|farewell| farewell.at == at) {
            self.farewells.take(&key);
        }
        Ok(Outcome::Done)
    }

    /// `vm` is replicated to `cap` again: what waits there is no left-over any more.
    pub(super) fn take_farewell_back(&mut self, vm: VmId, cap: &Fqdn) {
        if !planted::is(Bug::OldFarewellKept) {
            self.farewells.take(&(vm, cap.clone()));
        }
    }

    /// `cap` is no peer any more: nobody can tell it anything.
    pub(super) fn forget_farewells(&mut self, cap: &Fqdn) {
        let waiting: Vec<_> = self.farewells.keys().filter(|(_, to)| to == cap).cloned().collect();
        for key in waiting {
            self.farewells.take(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use landfall_proto::model::Command;

    use super::super::fixture::{Bench, cap, peer, vm};

    fn waiting(bench: &Bench) -> Vec<u128> {
        bench.state.farewells.keys().map(|(vm, _)| vm.0.as_u128()).collect()
    }

    #[test]
    fn the_other_cluster_is_to_be_told_until_it_was_or_the_vm_is_enabled_there_again() {
        let (mut bench, _) = Bench::ready();
        bench.enable(1);
        bench.enable(2);
        assert!(waiting(&bench).is_empty());
        let ids = [1, 2].map(|number| vm(number).id);
        ids.iter().for_each(|id| drop(bench.ok(Command::Disable(*id))));
        assert_eq!(waiting(&bench), ids.map(|id| id.0.as_u128()));
        let to = bench.state.farewells.keys().next().unwrap().1.clone();
        bench.enable(1);
        assert_eq!(waiting(&bench), [ids[1].0.as_u128()], "an old wish would end what has begun anew");
        let end = |bench: &Bench| {
            let at = bench.state.farewells.get(&(ids[1], to.clone())).unwrap().at;
            Command::HalfEnded { vm: ids[1], cap: to.clone(), at }
        };
        let first = end(&bench);
        bench.enable(2);
        bench.ok(Command::Disable(ids[1]));
        bench.ok(first);
        assert_eq!(waiting(&bench).len(), 1, "what is said of an earlier end is not said of this one");
        let second = end(&bench);
        bench.ok(second.clone());
        bench.ok(second);
        assert!(waiting(&bench).is_empty());
        bench.ok(Command::Disable(ids[0]));
        bench.ok(Command::Pair { peer: Box::new(peer('q', 1)), ticket: None });
        bench.ok(Command::Unpair(cap('q')));
        assert_eq!(waiting(&bench).len(), 1);
        bench.ok(Command::Unpair(to));
        assert!(waiting(&bench).is_empty(), "nobody can be told");
    }

    #[test]
    fn what_waits_is_in_a_snapshot() {
        let (mut bench, _) = Bench::ready();
        bench.enable(1);
        bench.ok(Command::Disable(vm(1).id));
        let read = super::State::from_archive(&bench.state.archive().unwrap()).unwrap();
        assert_eq!((&read, waiting(&bench).len()), (&bench.state, 1));
    }
}
