//! What becomes of a change set that was captured, and of which it is not known whether the other side lists it.

use landfall_proto::message::data::{ChangeSet, Staged, Tip};
use landfall_proto::model::DiskSpec;

/// What becomes of it when a session has been opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is listed there: only the answer was lost.
    Listed,
    /// It can still be applied there.
    Resend,
    /// It describes the way from something that is not there: another one is captured.
    Drop,
}

/// The fate of `flight` at a holder whose newest point is `newest` and which has `staged`; the VM has `disks` now.
///
/// A set without a point below it is the difference to what was filled in at one node, and no number says whether that
/// is what this node has. Only its own staged beginning proves that it is the same node; a fill that lost pages since is
/// found by the root.
pub fn fate(flight: &ChangeSet, newest: Option<Tip>, staged: Option<Staged>, disks: &[DiskSpec]) -> Fate {
    if newest == Some(flight.tip) {
        return Fate::Listed;
    }
    let begun = staged.is_some_and(|staged| staged.tip == flight.tip);
    let based = newest == flight.base && (flight.base.is_some() || begun);
    let same_disks = disks.iter().eq(flight.disks.iter().map(|(disk, _)| disk));
    if based && same_disks { Fate::Resend } else { Fate::Drop }
}

/// How far a sender goes back when the holder refuses a change set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Back {
    /// Nowhere: the same set is sent again.
    Resend,
    /// To another instant.
    Recapture,
    /// To a comparison of hashes: what is known of the other side is wrong.
    Compare,
}

/// How far to go back after a refusal with `code`. A refusal that is not about the set leaves it as it is.
pub fn back(code: &str) -> Back {
    match code {
        "root_mismatch" => Back::Compare,
        "base_mismatch" | "stale_sequence" | "bad_root" | "bad_resume" | "extents_missing" | "resized" => {
            Back::Recapture
        }
        _ => Back::Resend,
    }
}

#[cfg(test)]
mod tests {
    use landfall_proto::id::{Root, UnixMillis};
    use landfall_proto::message::control::Consistency;

    use super::*;

    fn tip(sequence: u64) -> Tip {
        Tip { sequence, root: Root([sequence as u8; 32]) }
    }

    fn disk(bytes: u64) -> DiskSpec {
        DiskSpec { target: "vda".parse().unwrap(), bytes }
    }

    fn flight(base: Option<u64>) -> ChangeSet {
        ChangeSet {
            base: base.map(tip),
            tip: tip(5),
            disks: vec![(disk(4096), Root([5; 32]))],
            taken_at: UnixMillis(1),
            consistency: Consistency::Crash,
            stays: false,
            resume_at: 0,
        }
    }

    #[test]
    fn a_set_is_sent_again_only_where_its_base_is() {
        let (based, disks) = (flight(Some(4)), [disk(4096)]);
        assert_eq!(fate(&based, Some(tip(5)), None, &disks), Fate::Listed);
        assert_eq!(fate(&based, Some(tip(4)), None, &disks), Fate::Resend);
        assert_eq!(fate(&based, Some(tip(3)), None, &disks), Fate::Drop);
        assert_eq!(fate(&based, None, None, &disks), Fate::Drop);
        assert_eq!(fate(&based, Some(tip(4)), None, &[disk(8192)]), Fate::Drop, "the disk has grown");
    }

    #[test]
    fn a_set_upon_a_fill_belongs_to_the_node_that_was_filled() {
        let (unbased, disks) = (flight(None), [disk(4096)]);
        let staged = |sequence| Some(Staged { tip: tip(sequence), extents: 1 });
        assert_eq!(fate(&unbased, None, staged(5), &disks), Fate::Resend);
        assert_eq!(fate(&unbased, None, None, &disks), Fate::Drop, "another node, or one that lost it");
        assert_eq!(fate(&unbased, None, staged(4), &disks), Fate::Drop);
        assert_eq!(fate(&unbased, Some(tip(4)), staged(5), &disks), Fate::Drop);
    }

    #[test]
    fn a_set_that_does_not_get_its_root_leads_to_a_comparison() {
        assert_eq!(back("root_mismatch"), Back::Compare);
        assert_eq!(back("base_mismatch"), Back::Recapture);
        assert_eq!(back("disk_full"), Back::Resend);
    }
}
