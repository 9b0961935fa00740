//! Which change sets stay as points: the settings, the holder's clock and what is listed, brought to `decide/points.rs`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use landfall_proto::id::VmId;
use landfall_proto::model::Replica;
use landfall_proto::seam::Time;

use crate::decide::points;
use crate::drive::node::Node;
use crate::drive::replica::Manifest;

/// When the last point that stays was applied here, of each replica that this node receives.
#[derive(Clone, Debug, Default)]
pub struct Spacing(Arc<Mutex<BTreeMap<VmId, Seen>>>);

/// The last point that stays, and since when it counts as applied.
#[derive(Clone, Copy, Debug)]
struct Seen {
    sequence: u64,
    at: Time,
    /// What counts as gone by before `at`, which this node did not see.
    credited: Duration,
}

impl Spacing {
    /// Whether the change set that is about to be applied stays as a point once there is a newer one.
    pub fn stays(&self, node: &Node, replica: &Replica, listed: &Manifest) -> bool {
        let interval =
            node.config.testing.point_interval.unwrap_or_else(|| node.state().resolved_settings().point_interval);
        let frequency = Duration::from_secs(u32::from(replica.frequency).into());
        let now = node.outside.clock.now();
        points::stays(self.since(replica.vm.id, listed, interval, now), interval, frequency)
    }

    fn since(&self, vm: VmId, listed: &Manifest, interval: Duration, now: Time) -> Option<Duration> {
        let last = listed.points.iter().rev().find(|point| point.stays)?;
        let newest = listed.newest()?;
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = seen.entry(vm).or_insert(Seen { sequence: 0, at: now, credited: Duration::ZERO });
        if seen.sequence != last.sequence {
            let credited = points::credited(newest.taken_at, last.taken_at, interval);
            *seen = Seen { sequence: last.sequence, at: now, credited };
        }
        Some(now.since(seen.at) + seen.credited)
    }

    /// A point that stays was just listed: the next one is due an interval from now.
    pub fn listed(&self, node: &Node, vm: VmId, listed: &Manifest) {
        if let Some(newest) = listed.newest().filter(|newest| newest.stays) {
            let seen = Seen { sequence: newest.sequence, at: node.outside.clock.now(), credited: Duration::ZERO };
            self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(vm, seen);
        }
    }

    /// Forgets a replica that is not here any more.
    pub fn forget(&self, vm: VmId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&vm);
    }
}
