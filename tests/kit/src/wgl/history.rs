//! Writing a history down while it happens.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::search::Entry;

/// A history that many clients write at once.
#[derive(Debug)]
pub struct History<K, C, A>(Arc<Mutex<Vec<Line<K, C, A>>>>);

#[derive(Debug)]
enum Line<K, C, A> {
    Call(K, C),
    Answer(usize, A),
}

/// A call under way. Dropped without an answer it stays unanswered.
#[derive(Debug)]
pub struct Ticket<K, C, A> {
    history: History<K, C, A>,
    line: usize,
}

impl<K, C, A> Clone for History<K, C, A> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K, C, A> Default for History<K, C, A> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Clone, C: Clone, A: Clone> History<K, C, A> {
    /// Notes that a call begins: right before it is made.
    pub fn begin(&self, key: K, call: C) -> Ticket<K, C, A> {
        let mut lines = self.lock();
        lines.push(Line::Call(key, call));
        Ticket { history: self.clone(), line: lines.len() - 1 }
    }

    /// The history so far, for [`super::check_keys`].
    pub fn entries(&self) -> Vec<(K, Entry<C, A>)> {
        let lines = self.lock();
        let mut entries: Vec<Option<(K, Entry<C, A>)>> = Vec::with_capacity(lines.len());
        for (time, line) in lines.iter().enumerate() {
            let entry = match line {
                Line::Call(key, call) => {
                    Some((key.clone(), Entry { call: call.clone(), began: time as u64, answer: None }))
                }
                Line::Answer(call, answer) => {
                    if let Some((_, entry)) = &mut entries[*call] {
                        entry.answer = Some((answer.clone(), time as u64));
                    }
                    None
                }
            };
            entries.push(entry);
        }
        entries.into_iter().flatten().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Line<K, C, A>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone, C: Clone, A: Clone> Ticket<K, C, A> {
    /// Notes the answer: right after it came. An error that leaves open whether the call took effect is no answer.
    pub fn answered(self, answer: A) {
        self.history.lock().push(Line::Answer(self.line, answer));
    }
}
