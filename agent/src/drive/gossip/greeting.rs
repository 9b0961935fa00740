//! Whom a node asks for a round by itself, besides those that chitchat draws.
//!
//! chitchat asks three others a round, tries the dead now and then, and forgets them in the end; what third ones tell does
//! not count here ([`super::sieve`]). So two members that missed each other's first words, or were cut off from each other
//! for longer than chitchat remembers, would never speak again.

use std::time::Duration;

use landfall_proto::seam::Time;

use super::{GOSSIP_INTERVAL, HEARTBEAT_PAUSE_MAX};

/// Whoever was heard within this time and not within the last round is asked every round: in a larger cluster a live member
/// must not be left to chance.
const MISSED_WITHIN: Duration = HEARTBEAT_PAUSE_MAX;

/// How often everybody else is asked who is not heard: often enough that nobody waits for long once a way is there again, and
/// seldom beside chitchat's own attempts.
const SILENT_EVERY: Duration = Duration::from_secs(5);

/// When a node asked the silent last.
#[derive(Clone, Copy, Debug, Default)]
pub struct Greeting {
    asked: Option<Time>,
}

impl Greeting {
    /// Those of `members` that are due at `now`: each with how long it has been silent, `None` where it was never heard.
    pub fn due<M>(&mut self, members: impl IntoIterator<Item = (M, Option<Duration>)>, now: Time) -> Vec<M> {
        let everybody = self.asked.is_none_or(|asked| now.since(asked) >= SILENT_EVERY);
        if everybody {
            self.asked = Some(now);
        }
        let is_due = |silent: Option<Duration>| match silent {
            Some(silent) if silent <= GOSSIP_INTERVAL => false,
            Some(silent) if silent <= MISSED_WITHIN => true,
            _ => everybody,
        };
        members.into_iter().filter(|(_, silent)| is_due(*silent)).map(|(member, _)| member).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_missed_a_round_is_asked_at_once_and_who_is_silent_or_was_never_heard_every_five_seconds() {
        let silent = |millis| Some(Duration::from_millis(millis));
        let members = || [(1, silent(400)), (2, silent(600)), (3, silent(5_001)), (4, silent(86_400_000)), (5, None)];
        let mut greeting = Greeting::default();
        let mut due = |millis| greeting.due(members(), Time(Duration::from_millis(millis)));
        assert_eq!(due(1_000), [2, 3, 4, 5]);
        assert_eq!(due(1_500), [2]);
        assert_eq!(due(5_999), [2]);
        assert_eq!(due(6_000), [2, 3, 4, 5], "however long they have been silent");
    }
}
