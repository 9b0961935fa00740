//! The product's rows: each measures real agents of the release binary, in turns with the floor under it.

mod asker;
mod binary;
mod change_set;
mod copies;
mod copying;
mod idle;
mod image;
mod journal;
mod locate;
mod many;
mod place;
mod rehoming;
mod settings;
mod stage;
mod takeover;

use std::cell::OnceCell;
use std::time::{Duration, Instant};

use landfall_kit::table::{Table, quantile};

use self::stage::Stage;

/// How often a row that kills nodes is measured where the environment says nothing.
const ROUNDS: usize = 5;

/// A part of the bench: its name, and what it adds to the table.
type Part = (&'static str, fn(&OnceCell<Stage>, &mut Table));

/// Every part, in the order of measuring: the idle cluster before anything was asked of it, the deaths after it.
const PARTS: [Part; 13] = [
    ("floors", |_, table| table.extend(crate::floor::rows())),
    ("binary", |_, table| table.extend(binary::rows())),
    ("idle", |stage, table| table.extend(idle::rows(stage::of(stage)))),
    ("locate", |stage, table| table.extend(locate::rows(stage::of(stage)))),
    ("place", |stage, table| table.extend(place::rows(stage::of(stage)))),
    ("settings", |stage, table| table.extend(settings::rows(stage::of(stage)))),
    ("copying", |stage, table| table.extend(copying::rows(stage::of(stage)))),
    ("change_set", |stage, table| table.extend(change_set::rows(stage::of(stage)))),
    ("image", |stage, table| table.extend(image::rows(stage::of(stage)))),
    ("copies", |stage, table| table.extend(copies::rows(stage::of(stage)))),
    ("rehoming", |stage, table| table.extend(rehoming::rows(stage::of(stage)))),
    ("takeover", |stage, table| table.extend(takeover::rows(stage::of(stage)))),
    ("many", |_, table| table.extend(many::rows())),
];

/// The parts' names.
pub fn names() -> impl Iterator<Item = &'static str> {
    PARTS.iter().map(|(name, _)| *name)
}

/// Measures the parts whose names contain one of `words`; all of them where there is none.
pub fn measure(words: &[String], table: &mut Table) {
    let stage = OnceCell::new();
    for (name, part) in PARTS {
        if !words.is_empty() && !words.iter().any(|word| name.contains(word.as_str())) {
            continue;
        }
        let begun = Instant::now();
        part(&stage, table);
        eprintln!("{name}: {:.0} s", begun.elapsed().as_secs_f64());
    }
}

/// How often a row that kills nodes is measured.
fn rounds() -> usize {
    std::env::var("LANDFALL_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(ROUNDS).max(1)
}

/// Values that were measured, to be sorted.
#[derive(Debug, Default)]
struct Sample(Vec<f64>);

impl Sample {
    fn add(&mut self, value: f64) {
        self.0.push(value);
    }

    fn time(&mut self, took: Duration) {
        self.add(took.as_secs_f64() * 1e6);
    }

    fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        quantile(&sorted, share)
    }

    fn p50(&self) -> f64 {
        self.quantile(0.5)
    }
}
