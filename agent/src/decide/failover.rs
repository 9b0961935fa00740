//! What a failover does next, and what it starts.

use std::collections::BTreeMap;
use std::path::PathBuf;

use landfall_proto::id::{DiskTarget, VmId};
use landfall_proto::message::control::{Consistency, HandOffWish, Point, PointState};
use landfall_proto::model::{
    Departure, DepartureState, FailoverStep, HandOff, Launch, Loss, PointName, Promotion, PromotionId, PromotionState,
    Rival, Side, UnknownRight,
};

use crate::decide::health::Verdict;
use crate::decide::reason::Reasons;
use crate::surface::vm::ReplicationState;

/// What the primary's cluster asks the replica's, by what it has committed.
pub fn wish(state: DepartureState) -> Option<HandOffWish> {
    match state {
        DepartureState::Preparing => None,
        DepartureState::Released(_) => Some(HandOffWish::Take),
        DepartureState::Recalling(_) => Some(HandOffWish::Decline),
        DepartureState::Departed(_) => Some(HandOffWish::Look),
    }
}

/// What the primary's cluster commits on an answer. An answer may be old: taken can become declined, never the reverse.
pub fn learned(id: PromotionId, state: DepartureState, answer: HandOff) -> Option<FailoverStep> {
    match answer {
        HandOff::Taken if matches!(state, DepartureState::Departed(_)) => None,
        HandOff::Taken => Some(FailoverStep::Departed { id }),
        HandOff::Declined => Some(FailoverStep::Reinstate { id }),
        HandOff::Open => None,
    }
}

/// The last content of a VM that was off and locked when its newest acknowledged point was `before`: the change set after
/// it may have been taken earlier, the one after that cannot.
pub fn last_content(before: u64, acknowledged: Option<&Point>) -> Option<PointName> {
    let point = acknowledged?;
    let settled = point.sequence >= before.saturating_add(2);
    let sure = point.consistency == Consistency::Off && point.state == PointState::Listed;
    (settled && sure).then_some(PointName { sequence: point.sequence, root: point.root })
}

/// What failing over to `chosen` gives up, `now` by the wall clock in milliseconds.
pub fn loss(points: &[Point], chosen: &Point, now: u64) -> Loss {
    let newer = points.iter().filter(|point| point.sequence > chosen.sequence);
    Loss {
        millis: now.saturating_sub(chosen.taken_at.0),
        bytes: newer.fold(0, |sum, point| sum.saturating_add(point.bytes)),
    }
}

/// The verdict over a primary, where a planned failover stands.
pub fn at_primary(vm: VmId, departure: Option<&Departure>, verdict: Verdict) -> Verdict {
    let Some(departure) = departure else { return verdict };
    let reason = match departure.state {
        DepartureState::Preparing => "it is failed over as planned: its last changes are being sent",
        DepartureState::Released(_) | DepartureState::Recalling(_) => {
            "its right to run is released to the other cluster"
        }
        DepartureState::Departed(_) => "it is failed over to the other cluster, and not replicated back yet",
    };
    failed_over(vm, ReplicationState::PreparedForFailover, reason)
}

/// The verdict over a replica, where it is failed over (Hyper-V: a Warning until replication is reversed).
pub fn at_replica(vm: VmId, promotion: Option<&Promotion>, verdict: Verdict) -> Verdict {
    let Some(promotion) = promotion else { return verdict };
    let state = match promotion.state {
        PromotionState::Completed | PromotionState::Reversing => ReplicationState::FailedOver,
        PromotionState::Running | PromotionState::Withdrawing | PromotionState::Abandoning => {
            ReplicationState::FailedOverWaitingCompletion
        }
    };
    failed_over(vm, state, "it is failed over to this cluster, and not replicated back yet")
}

/// The verdict over a primary of which another cluster runs a branch: nothing is right until somebody has decided.
pub fn at_branch(vm: VmId, rival: Option<&Rival>, verdict: Verdict) -> Verdict {
    let Some(rival) = rival else { return verdict };
    let mut reasons = Reasons::of(vm);
    let (why, command) = match rival.keep {
        None => ("and one must be chosen", format!("landfall failover resolve {vm} --keep here|there")),
        Some(Side::Here) => ("which is being dropped", format!("landfall failover status {vm}")),
        Some(Side::There) => ("which is kept", format!("landfall failover reverse {vm}  (at {})", rival.from)),
    };
    reasons.critical("branched", format!("{} runs a branch of it since a failover, {why}", rival.from), command);
    reasons.verdict(ReplicationState::Error)
}

/// The verdict over a VM of which this cluster does not know whether it may run it.
pub fn at_unknown(vm: VmId, mark: Option<&UnknownRight>, verdict: Verdict) -> Verdict {
    let Some(mark) = mark else { return verdict };
    let mut reasons = Reasons::of(vm);
    let command = format!("landfall failover resolve {vm} --keep here|there");
    match mark.decided {
        None => {
            let why = "this cluster was recovered, and does not know whether it has the right to run it until the other \
                       cluster answers";
            reasons.critical("right_unknown", why, command);
            reasons.verdict(ReplicationState::Error)
        }
        Some(Side::There) => {
            reasons.critical(
                "right_given_up",
                "it was decided that the other cluster runs it, which does not say so",
                command,
            );
            reasons.verdict(ReplicationState::Error)
        }
        // By an operator's word: the other cluster has not heard of it yet.
        Some(Side::Here) => verdict,
    }
}

fn failed_over(vm: VmId, state: ReplicationState, reason: &str) -> Verdict {
    let mut reasons = Reasons::of(vm);
    reasons.warning("failed_over", reason, format!("landfall failover status {vm}"));
    reasons.verdict(state)
}

/// The command of a launch over other images: wherever it names one of the primary's, the failover's stands instead.
pub fn command(launch: &Launch, images: &BTreeMap<DiskTarget, PathBuf>) -> Vec<String> {
    let mut pairs: Vec<(&str, String)> = launch
        .images
        .iter()
        .filter_map(|image| Some((image.path.as_str(), images.get(&image.target)?.to_string_lossy().into_owned())))
        .collect();
    // The longest first: one path may begin another.
    pairs.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
    launch.command.iter().map(|part| replaced(part, &pairs)).collect()
}

/// `text` with every whole path of `pairs` replaced.
fn replaced(text: &str, pairs: &[(&str, String)]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut before: Option<char> = None;
    'text: while let Some(first) = rest.chars().next() {
        if before.is_none_or(|before| !is_part_of_path(before)) {
            for (path, image) in pairs {
                if let Some(after) = rest.strip_prefix(path)
                    && after.chars().next().is_none_or(|next| !is_part_of_path(next))
                {
                    out.push_str(image);
                    before = path.chars().last();
                    rest = after;
                    continue 'text;
                }
            }
        }
        out.push(first);
        before = Some(first);
        rest = &rest[first.len_utf8()..];
    }
    out
}

/// Whether a path that ends or begins beside this character would be another one.
fn is_part_of_path(letter: char) -> bool {
    letter.is_alphanumeric() || matches!(letter, '/' | '.' | '-' | '_' | '~')
}

#[cfg(test)]
mod tests {
    use landfall_proto::id::{Root, UnixMillis};
    use landfall_proto::model::LaunchImage;

    use super::*;

    fn point(sequence: u64, consistency: Consistency) -> Point {
        Point {
            sequence,
            taken_at: UnixMillis(sequence * 1000),
            consistency,
            bytes: 100,
            root: Root([1; 32]),
            copies: Vec::new(),
            state: PointState::Listed,
            stays: true,
            verified_at: None,
        }
    }

    #[test]
    fn only_a_change_set_that_was_begun_after_the_stop_is_the_last() {
        assert_eq!(last_content(5, None), None);
        assert_eq!(last_content(5, Some(&point(6, Consistency::Off))), None);
        assert_eq!(last_content(5, Some(&point(7, Consistency::Crash))), None);
        let unsure = Point { state: PointState::Unconfirmed, ..point(7, Consistency::Off) };
        assert_eq!(last_content(5, Some(&unsure)), None);
        assert_eq!(last_content(5, Some(&point(7, Consistency::Off))).unwrap().sequence, 7);
    }

    #[test]
    fn the_loss_is_the_age_of_the_point_and_what_came_after_it() {
        let points: Vec<Point> = (1..=4).map(|sequence| point(sequence, Consistency::Crash)).collect();
        assert_eq!(loss(&points, &points[1], 9_500), Loss { millis: 7_500, bytes: 200 });
        assert_eq!(loss(&points, &points[3], 0), Loss { millis: 0, bytes: 0 });
    }

    #[test]
    fn a_command_finds_its_images_wherever_it_names_them() {
        let image = |target: &str, path: &str| LaunchImage {
            target: target.parse().unwrap(),
            path: path.to_owned(),
            raw: true,
        };
        let launch = Launch {
            command: [
                "./guest",
                "disk.raw",
                "-drive",
                "file=disk.raw,format=raw",
                "/shared/disk.raw",
                "mydisk.raw",
                "disk.raw.bak",
                "sh -c 'x disk.raw;y \"/shared/disk.raw\"'",
                "ünï disk.raw",
            ]
            .map(str::to_owned)
            .to_vec(),
            images: vec![image("vda", "disk.raw"), image("vdb", "/shared/disk.raw")],
        };
        let images = BTreeMap::from([("vda".parse().unwrap(), "/r/a".into()), ("vdb".parse().unwrap(), "/r/b".into())]);
        assert_eq!(
            command(&launch, &images),
            [
                "./guest",
                "/r/a",
                "-drive",
                "file=/r/a,format=raw",
                "/r/b",
                "mydisk.raw",
                "disk.raw.bak",
                "sh -c 'x /r/a;y \"/r/b\"'",
                "ünï /r/a",
            ]
        );
    }

    #[test]
    fn what_is_learned_moves_a_departure_forward_only() {
        let (id, point) = (PromotionId(1), PointName { sequence: 1, root: Root([0; 32]) });
        assert_eq!(wish(DepartureState::Preparing), None);
        assert_eq!(learned(id, DepartureState::Released(point), HandOff::Open), None);
        assert_eq!(learned(id, DepartureState::Recalling(point), HandOff::Taken), Some(FailoverStep::Departed { id }));
        assert_eq!(learned(id, DepartureState::Departed(point), HandOff::Taken), None);
        assert_eq!(
            learned(id, DepartureState::Departed(point), HandOff::Declined),
            Some(FailoverStep::Reinstate { id })
        );
    }
}
