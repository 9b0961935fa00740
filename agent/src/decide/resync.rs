//! Why both sides of a VM are compared, and whether that waits for the cluster's window.
//!
//! A comparison reads both sides once and sends what differs; it removes no recovery point. What belongs to an ordinary
//! course of things (a migration, a new home, a disk that has grown, an operator's wish) never waits. What should not have
//! happened (a lost index, a replica of another line) waits for `auto_resync`, as in Hyper-V, where somebody looks first.

use landfall_proto::id::UnixMillis;
use landfall_proto::message::data::Tip;
use landfall_store::settings::{AutoResync, TimeOfDay};

/// The code of the refusal with which a sender waits for the window.
pub const RESYNC_REQUIRED: &str = "resync_required";

const DAY_MS: u64 = 24 * 3600 * 1000;
const MINUTE_MS: u64 = 60 * 1000;

/// How a sender's indexes agree with what the holder has newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Indexes {
    /// There is one for each disk.
    Whole,
    /// A disk is new, or has another size.
    Reshaped,
    /// One is missing or cannot be read.
    Lost,
}

/// Why both sides are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Because {
    /// An operator asked.
    Asked,
    /// This node has not sent the VM before.
    NewSender,
    /// Another node has sent it since this one did.
    SentElsewhere,
    /// The replica has content and no point: a first copy was cut off, or a new home has old files.
    Unfinished,
    /// The replica has points, and what it has newest is not what it should be.
    Doubted,
    /// A disk was added or has another size.
    Reshaped,
    /// What was sent last went to a node that does not receive the VM any more, and this one does not have it.
    NewHome,
    /// The sender's index is gone.
    IndexLost,
    /// The replica's newest point is not the one that was acknowledged.
    Diverged,
}

impl Because {
    /// Why, one word.
    pub fn code(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::NewSender => "new_sender",
            Self::SentElsewhere => "sent_elsewhere",
            Self::Unfinished => "unfinished",
            Self::Doubted => "doubted",
            Self::Reshaped => "reshaped",
            Self::NewHome => "new_home",
            Self::IndexLost => "index_lost",
            Self::Diverged => "diverged",
        }
    }

    /// Why, a sentence.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Asked => "an operator asked for it",
            Self::NewSender => "this node has not sent the VM before",
            Self::SentElsewhere => "another node has sent the VM since this one did",
            Self::Unfinished => "the replica has content and no complete point yet",
            Self::Doubted => "the replica's newest content was damaged, or changed by somebody else",
            Self::Reshaped => "a disk was added or has another size",
            Self::NewHome => "the node that receives it now does not have what was sent last",
            Self::IndexLost => "the index of what the replica has is lost or damaged",
            Self::Diverged => "the replica's newest point is not the one that was acknowledged",
        }
    }

    /// Whether it waits for the window.
    pub fn waits(self) -> bool {
        matches!(self, Self::IndexLost | Self::Diverged)
    }
}

/// Why a comparison is needed before the next capture; `None` where the replica is empty, so that there is nothing to
/// compare with. `acknowledged` is the newest point that this sender knows to be acknowledged in this relationship,
/// `new_home` whether what it sent last went to other nodes than the one that receives now, `listed` whether the replica
/// lists points though it names none as the newest.
pub fn because(
    asked: bool,
    acknowledged: Option<Tip>,
    newest: Option<Tip>,
    comparable: bool,
    new_home: bool,
    listed: bool,
    indexes: Indexes,
) -> Option<Because> {
    let Some(newest) = newest else {
        let because = if listed { Because::Doubted } else { Because::Unfinished };
        return comparable.then_some(because);
    };
    Some(match acknowledged {
        _ if asked => Because::Asked,
        None => Because::NewSender,
        Some(own) if own == newest && indexes == Indexes::Reshaped => Because::Reshaped,
        Some(own) if own.sequence < newest.sequence => Because::SentElsewhere,
        Some(_) if new_home => Because::NewHome,
        Some(own) if own == newest => Because::IndexLost,
        Some(_) => Because::Diverged,
    })
}

/// Whether a comparison that waits may begin at `now`.
pub fn resync_due(now: UnixMillis, window: AutoResync) -> bool {
    let minute = now.0 % DAY_MS / MINUTE_MS;
    let of = |time: TimeOfDay| u64::from(time.hour) * 60 + u64::from(time.minute);
    match window {
        AutoResync::Always => true,
        AutoResync::Never => false,
        // Over midnight, where it ends earlier in the day than it begins.
        AutoResync::Between(from, until) if of(from) > of(until) => minute >= of(from) || minute < of(until),
        AutoResync::Between(from, until) => (of(from)..of(until)).contains(&minute),
    }
}

#[cfg(test)]
mod tests {
    use landfall_proto::id::Root;

    use super::*;

    fn tip(sequence: u64, root: u8) -> Option<Tip> {
        Some(Tip { sequence, root: Root([root; 32]) })
    }

    #[test]
    fn what_is_ordinary_never_waits_and_what_should_not_have_happened_does() {
        let whole = Indexes::Whole;
        let cases = [
            (true, tip(3, 3), tip(3, 3), whole, Some(Because::Asked), false),
            (false, None, tip(3, 3), whole, Some(Because::NewSender), false),
            (false, tip(2, 2), tip(3, 3), whole, Some(Because::SentElsewhere), false),
            (false, tip(3, 3), tip(3, 3), Indexes::Reshaped, Some(Because::Reshaped), false),
            (false, tip(3, 3), tip(3, 3), Indexes::Lost, Some(Because::IndexLost), true),
            (false, tip(3, 3), tip(3, 9), whole, Some(Because::Diverged), true),
            (false, tip(4, 4), tip(3, 3), whole, Some(Because::Diverged), true),
        ];
        for (asked, own, newest, indexes, expected, waits) in cases {
            let found = because(asked, own, newest, true, false, true, indexes);
            assert_eq!(found, expected);
            assert_eq!(found.unwrap().waits(), waits, "{found:?}");
        }
        assert_eq!(because(true, tip(3, 3), None, true, false, false, whole), Some(Because::Unfinished));
        assert_eq!(because(false, tip(3, 3), None, true, false, true, whole), Some(Because::Doubted));
        assert!(!Because::Doubted.waits(), "nothing can be failed over to meanwhile");
        assert_eq!(because(true, tip(3, 3), None, false, false, false, whole), None, "an empty replica is filled");
    }

    #[test]
    fn a_node_that_took_the_replica_over_with_older_files_is_brought_up_at_once() {
        let at_new_home = |own, newest, indexes| because(false, own, newest, true, true, true, indexes).unwrap();
        for (own, newest, indexes, expected) in [
            (tip(4, 4), tip(3, 3), Indexes::Lost, Because::NewHome),
            (tip(3, 3), tip(3, 9), Indexes::Lost, Because::NewHome),
            // The one before took more, which does not count: the index is of that.
            (tip(3, 3), tip(3, 3), Indexes::Lost, Because::NewHome),
            (tip(3, 3), tip(3, 3), Indexes::Reshaped, Because::Reshaped),
            (tip(2, 2), tip(3, 3), Indexes::Lost, Because::SentElsewhere),
            (None, tip(3, 3), Indexes::Lost, Because::NewSender),
        ] {
            let found = at_new_home(own, newest, indexes);
            assert_eq!(found, expected);
            assert!(!found.waits(), "{found:?}");
        }
    }

    #[test]
    fn a_window_may_go_over_midnight_and_its_end_is_outside() {
        let at = |hour: u64, minute: u64| UnixMillis(20_000 * DAY_MS + (hour * 60 + minute) * MINUTE_MS + 59_999);
        let time = |hour, minute| TimeOfDay { hour, minute };
        let night = AutoResync::Between(time(18, 30), time(6, 0));
        for (hour, minute, due) in [(18, 29, false), (18, 30, true), (23, 59, true), (0, 0, true), (5, 59, true)] {
            assert_eq!(resync_due(at(hour, minute), night), due, "{hour}:{minute}");
        }
        assert!(!resync_due(at(6, 0), night) && !resync_due(at(12, 0), night));
        let noon = AutoResync::Between(time(12, 0), time(13, 0));
        assert!(resync_due(at(12, 59), noon) && !resync_due(at(13, 0), noon) && !resync_due(at(0, 0), noon));
        assert!(resync_due(at(12, 0), AutoResync::Always) && !resync_due(at(20, 0), AutoResync::Never));
    }
}
