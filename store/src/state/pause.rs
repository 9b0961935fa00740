//! What an operator holds back or asks for: pausing at either side, a first copy that begins later, a comparison.

use landfall_proto::id::{UnixMillis, VmId};
use landfall_proto::model::{Answer, Outcome};
use landfall_proto::{Class, Refusal};

use super::{Entry, State};

/// How far ahead a first copy may be set to begin: Hyper-V's seven days.
const START_MOST_MS: u64 = 7 * 24 * 3600 * 1000;

/// How far back a start may lie and still mean now: the request was on its way, and clocks differ by a little.
const START_PAST_MS: u64 = 60 * 1000;

/// Refuses a start of a first copy that lies in the past or too far ahead.
pub fn check_start(now: UnixMillis, starts_at: Option<UnixMillis>) -> Result<(), Refusal> {
    let Some(starts_at) = starts_at else { return Ok(()) };
    let wrong = |why: &str| {
        Refusal::new(Class::Usage, "invalid_value", format!("start_at: the first copy was to begin {why}"))
            .field("start_at")
            .remedy("give a time within the next seven days, or none to begin at once")
    };
    if starts_at.0.saturating_add(START_PAST_MS) < now.0 {
        return Err(wrong("in the past"));
    }
    if starts_at.0 > now.0.saturating_add(START_MOST_MS) {
        return Err(wrong("in more than seven days"));
    }
    Ok(())
}

impl State {
    /// Pauses a VM's replication at this side. Of a paused one it changes nothing: it stays paused since when it was.
    pub(super) fn pause(&mut self, entry: Entry, vm: VmId) -> Answer {
        if let Some(primary) = self.primaries.edit(&vm) {
            primary.paused = primary.paused.or(Some(entry.at));
            return Ok(Outcome::Done);
        }
        self.require_replica(vm)?;
        if let Some(replica) = self.replicas.edit(&vm) {
            replica.paused = replica.paused.or(Some(entry.at));
        }
        Ok(Outcome::Done)
    }

    /// Goes on with it. Where it is not paused, a first copy that waits for its time begins now.
    pub(super) fn resume(&mut self, vm: VmId) -> Answer {
        if let Some(primary) = self.primaries.edit(&vm) {
            if primary.paused.take().is_none() {
                primary.starts_at = None;
            }
            return Ok(Outcome::Done);
        }
        self.require_replica(vm)?;
        if let Some(replica) = self.replicas.edit(&vm) {
            replica.paused = None;
        }
        Ok(Outcome::Done)
    }

    /// Has the sender compare both sides before it sends anything more.
    pub(super) fn resync(&mut self, entry: Entry, vm: VmId) -> Answer {
        self.require_primary(vm)?;
        if let Some(primary) = self.primaries.edit(&vm) {
            primary.resync = Some(entry.position);
        }
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use landfall_proto::id::VmId;
    use landfall_proto::model::{Command, Frequency, Primary};

    use super::super::fixture::{Bench, HOUR, cap, vm};
    use super::*;

    fn enable(bench: &mut Bench, starts_at: Option<u64>) -> Answer {
        bench.run(Command::Enable {
            vm: Box::new(vm(2)),
            to: cap('p'),
            frequency: Frequency::HalfMinute,
            recovery_points: 0,
            starts_at: starts_at.map(UnixMillis),
            limit: None,
            excluded: Vec::new(),
        })
    }

    fn primary(bench: &Bench, vm: VmId) -> Primary {
        bench.state.primaries.get(&vm).unwrap().clone()
    }

    #[test]
    fn each_side_is_paused_by_itself_and_a_second_pause_changes_nothing() {
        let (mut bench, [r1, ..]) = Bench::ready();
        bench.place(1, r1);
        enable(&mut bench, None).unwrap();
        for number in [1, 2] {
            let id = vm(number).id;
            bench.ok(Command::Pause(id));
            let first = bench.at;
            bench.at += HOUR;
            bench.ok(Command::Pause(id));
            let paused = match number {
                1 => bench.state.replicas.get(&id).unwrap().paused,
                _ => primary(&bench, id).paused,
            };
            assert_eq!(paused, Some(UnixMillis(first)));
            bench.ok(Command::Resume(id));
        }
        assert_eq!(primary(&bench, vm(2).id).paused, None);
        assert_eq!(bench.state.replicas.get(&vm(1).id).unwrap().paused, None);
        for command in [Command::Pause(vm(3).id), Command::Resume(vm(3).id), Command::Resync(vm(1).id)] {
            assert_eq!(bench.run(command).unwrap_err().class, Class::NotFound);
        }
    }

    #[test]
    fn a_replica_that_is_placed_again_stays_paused() {
        let (mut bench, [r1, ..]) = Bench::ready();
        bench.place(1, r1);
        bench.ok(Command::Pause(vm(1).id));
        bench.ok(bench.asks_to_place(1, 'p', r1));
        assert!(bench.state.replicas.get(&vm(1).id).unwrap().paused.is_some());
    }

    #[test]
    fn a_first_copy_begins_within_seven_days_or_by_resume() {
        let (mut bench, _) = Bench::ready();
        bench.at += HOUR;
        for (start, word) in [(bench.at - HOUR / 2, "past"), (bench.at + 7 * 24 * HOUR + 1, "seven days")] {
            let refusal = enable(&mut bench, Some(start)).unwrap_err();
            assert_eq!((refusal.field.as_deref(), refusal.class), (Some("start_at"), Class::Usage));
            assert!(refusal.message.contains(word), "{refusal}");
        }
        let start = bench.at + 7 * 24 * HOUR;
        enable(&mut bench, Some(start)).unwrap();
        let id = vm(2).id;
        bench.ok(Command::Pause(id));
        bench.ok(Command::Resume(id));
        assert_eq!(primary(&bench, id).starts_at, Some(UnixMillis(start)), "what was paused is no longer; it waits on");
        bench.ok(Command::Resume(id));
        assert_eq!(primary(&bench, id).starts_at, None);
    }

    #[test]
    fn a_comparison_is_asked_for_at_its_position() {
        let (mut bench, _) = Bench::ready();
        enable(&mut bench, None).unwrap();
        bench.ok(Command::Resync(vm(2).id));
        assert_eq!(primary(&bench, vm(2).id).resync, Some(bench.state.applied));
    }
}
