//! Rule R1, watched all the time: at most one agent acts as the owner, and no older term after a newer one.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use landfall_agent::drive::owner::Owner;
use landfall_proto::id::Term;
use tokio::time::{Instant, sleep};

/// How often everybody is asked: the step of the simulation's clock.
const STEP: Duration = Duration::from_millis(1);

/// The most broken rules that are kept: one is enough to fail.
const FAULTS_MAX: usize = 20;

/// Who acts when. Clones share what they saw.
#[derive(Clone, Default)]
pub struct Audit(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    owners: Vec<(String, Owner)>,
    newest: Option<Term>,
    faults: Vec<String>,
    looks: u64,
    /// (since the start, node, term) each time that another one acted than before.
    turns: Vec<(Duration, String, Term)>,
}

impl Audit {
    /// Watches `owner` of the node called `name` from now on; an earlier life of that node is watched no more.
    pub fn watch(&self, name: &str, owner: Owner) {
        let mut seen = self.lock();
        seen.owners.retain(|(known, _)| known != name);
        seen.owners.push((name.to_owned(), owner));
    }

    /// Watches the node called `name` no more: its process is gone.
    pub fn forget(&self, name: &str) {
        self.lock().owners.retain(|(known, _)| known != name);
    }

    /// Looks at every step of the clock, for ever.
    pub async fn run(self) {
        let start = Instant::now();
        loop {
            self.look(start.elapsed());
            sleep(STEP).await;
        }
    }

    /// Looks whenever a tenure of `owner` changes: two could act only from such a moment on.
    pub async fn follow(self, start: Instant, owner: Owner) {
        let mut tenure = owner.watch();
        while tenure.changed().await.is_ok() {
            self.look(start.elapsed());
        }
    }

    fn look(&self, at: Duration) {
        let mut seen = self.lock();
        seen.looks += 1;
        let acting: Vec<(String, Term)> =
            seen.owners.iter().filter_map(|(name, owner)| Some((name.clone(), owner.acting()?))).collect();
        let mut faults = Vec::new();
        if acting.len() > 1 {
            faults.push(format!("{at:?}: {acting:?} act at once"));
        }
        for (name, term) in acting {
            if seen.newest.is_some_and(|newest| term < newest) {
                faults.push(format!("{at:?}: {name} acts in {term:?} after {:?}", seen.newest));
            }
            seen.newest = seen.newest.max(Some(term));
            if seen.turns.last().is_none_or(|(_, last, in_term)| *last != name || *in_term != term) {
                seen.turns.push((at, name, term));
            }
        }
        let room = FAULTS_MAX.saturating_sub(seen.faults.len());
        seen.faults.extend(faults.into_iter().take(room));
    }

    /// The node that acts now.
    pub fn acting(&self) -> Option<String> {
        self.lock().owners.iter().find(|(_, owner)| owner.acting().is_some()).map(|(name, _)| name.clone())
    }

    /// What broke the rule.
    pub fn faults(&self) -> Vec<String> {
        self.lock().faults.clone()
    }

    /// Each owner in turn: since when, who, in which term.
    pub fn turns(&self) -> Vec<(Duration, String, Term)> {
        self.lock().turns.clone()
    }

    /// How often everybody was asked.
    pub fn looks(&self) -> u64 {
        self.lock().looks
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
