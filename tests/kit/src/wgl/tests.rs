//! The checker over histories of known kind: true ones, and true ones with a violation planted.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;

use super::*;
use RegisterAnswer::{Done, Refused, Value};
use RegisterCall::{Read, Replace, Write};

type Line = Entry<RegisterCall, RegisterAnswer>;

fn line(call: RegisterCall, began: u64, answer: RegisterAnswer, ended: u64) -> Line {
    Entry { call, began, answer: Some((answer, ended)) }
}

fn unanswered(call: RegisterCall, began: u64) -> Line {
    Entry { call, began, answer: None }
}

fn is_linearizable(history: &[Line]) -> bool {
    match check::<Register>(history) {
        Verdict::Linearizable => true,
        Verdict::Not { .. } => false,
        Verdict::Undecided => panic!("the search gave up"),
    }
}

/// A history of `clients` that overlap, true to a register: each call takes effect at one instant between its two ends.
fn true_history(seed: u64, clients: u64, calls: usize, lost: f64) -> Vec<Line> {
    let mut random = ChaCha12Rng::seed_from_u64(seed);
    let mut free_at = vec![0; clients as usize];
    let mut planned = Vec::new();
    for number in 1..=calls as u64 {
        let client = random.random_range(0..free_at.len());
        let began = free_at[client] + random.random_range(1..20);
        let effect = began + random.random_range(0..50);
        let ended = effect + random.random_range(0..50);
        free_at[client] = ended + 1;
        planned.push((effect, number, began, ended));
    }
    planned.sort_unstable();
    let mut value = 0;
    let play = |(_, number, began, ended): (u64, u64, u64, u64)| {
        let (call, answer) = match random.random_range(0..10) {
            0..5 => (Read, Value(value)),
            5..8 => (Write(number), Done),
            8 => (Replace(value, number), Done),
            _ => (Replace(value + 1_000_000, number), Refused),
        };
        if let Write(new) | Replace(_, new) = call
            && answer == Done
        {
            value = new;
        }
        // Some answers are lost on the way.
        match random.random_bool(lost) {
            true => unanswered(call, began * 2),
            false => line(call, began * 2, answer, ended * 2 + 1),
        }
    };
    planned.into_iter().map(play).collect()
}

#[test]
fn true_histories_are_linearizable() {
    for seed in 0..100 {
        assert!(is_linearizable(&true_history(seed, 6, 200, 0.02)), "seed {seed}");
    }
    assert!(is_linearizable(&true_history(1, 6, 5_000, 0.0)));
}

#[test]
fn a_read_of_a_value_that_was_never_written_is_found_in_every_history() {
    for seed in 0..100 {
        let mut history = true_history(seed, 6, 200, 0.02);
        let read = history.iter_mut().rev().find(|entry| matches!(entry.answer, Some((Value(_), _)))).unwrap();
        read.answer.as_mut().unwrap().0 = Value(u64::MAX);
        assert!(!is_linearizable(&history), "seed {seed}");
    }
}

#[test]
fn a_read_of_an_older_value_is_found() {
    let history = [line(Write(1), 0, Done, 1), line(Write(2), 2, Done, 3), line(Read, 4, Value(1), 5)];
    assert_eq!(check::<Register>(&history), Verdict::Not { explained: 2 });
    // While the second write was under way both values were right, but not the newer one first.
    let history = [line(Write(1), 0, Done, 1), line(Write(2), 2, Done, 9), line(Read, 3, Value(1), 4)];
    assert!(is_linearizable(&history));
    let history = [
        line(Write(1), 0, Done, 1),
        line(Write(2), 2, Done, 9),
        line(Read, 3, Value(2), 4),
        line(Read, 5, Value(1), 6),
    ];
    assert!(!is_linearizable(&history));
}

#[test]
fn a_lost_write_is_found() {
    let history = [line(Write(1), 0, Done, 1), line(Write(2), 2, Done, 3), line(Read, 4, Value(0), 5)];
    assert!(!is_linearizable(&history));
}

#[test]
fn two_winners_of_one_replacement_are_found() {
    let history = [line(Replace(0, 1), 0, Done, 10), line(Replace(0, 2), 1, Done, 9)];
    assert!(!is_linearizable(&history));
    let history = [line(Replace(0, 1), 0, Done, 10), line(Replace(0, 2), 1, Refused, 9)];
    assert!(is_linearizable(&history));
}

#[test]
fn an_unanswered_write_may_have_happened_late_or_never_but_not_twice() {
    let write = unanswered(Write(7), 0);
    assert!(is_linearizable(&[write.clone(), line(Read, 10, Value(0), 11), line(Read, 20, Value(7), 21)]));
    assert!(is_linearizable(&[write.clone(), line(Read, 10, Value(0), 11)]));
    let twice = [
        write,
        line(Read, 10, Value(7), 11),
        line(Write(8), 12, Done, 13),
        line(Read, 14, Value(8), 15),
        line(Read, 20, Value(7), 21),
    ];
    assert!(!is_linearizable(&twice));
    assert!(!is_linearizable(&[line(Read, 1, Value(7), 2), unanswered(Write(7), 5)]), "nor before it began");
}

#[test]
fn keys_are_checked_each_by_itself() {
    let history: History<&str, RegisterCall, RegisterAnswer> = History::default();
    history.begin("good", Write(1)).answered(Done);
    history.begin("bad", Write(1)).answered(Done);
    let read = history.begin("bad", Read);
    drop(history.begin("good", Write(5)));
    read.answered(Value(3));
    history.begin("good", Read).answered(Value(5));
    let found = check_keys::<_, Register>(history.entries());
    assert_eq!(found.into_iter().collect::<Vec<_>>(), [("bad", Verdict::Not { explained: 1 })]);
}

/// The definition itself: tries every order of the calls that are left.
fn can_be_ordered(left: &[Line], state: u64) -> bool {
    if left.iter().all(|entry| entry.answer.is_none()) {
        return true;
    }
    (0..left.len()).any(|index| {
        let entry = &left[index];
        let too_late = left.iter().any(|other| other.answer.is_some_and(|(_, ended)| ended < entry.began));
        let after = Register::step(&state, &entry.call, entry.answer.as_ref().map(|(answer, _)| answer));
        let mut rest = left.to_vec();
        rest.remove(index);
        !too_late && after.is_some_and(|after| can_be_ordered(&rest, after))
    })
}

#[test]
fn the_search_agrees_with_the_definition_on_ten_thousand_small_histories() {
    let mut random = ChaCha12Rng::seed_from_u64(3);
    let mut linearizable = 0;
    for number in 0..10_000 {
        let history: Vec<Line> = (0..6)
            .map(|_| {
                let (began, value) = (random.random_range(0..20), random.random_range(0..3));
                let (call, answer) = match random.random_range(0..4) {
                    0 | 1 => (Read, Value(value)),
                    2 => (Write(value), Done),
                    _ => (Replace(value, value + 1), if random.random() { Done } else { Refused }),
                };
                match random.random_bool(0.2) {
                    true => unanswered(call, began),
                    false => line(call, began, answer, began + random.random_range(0..10)),
                }
            })
            .collect();
        let expected = can_be_ordered(&history, 0);
        linearizable += u32::from(expected);
        assert_eq!(is_linearizable(&history), expected, "history {number}: {history:#?}");
    }
    assert!((500..9_500).contains(&linearizable), "{linearizable} of 10,000 show nothing");
}
