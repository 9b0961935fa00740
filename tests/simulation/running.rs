//! The agents that run now, for clients that ask while nodes come and go.

use std::sync::{Arc, Mutex, PoisonError};

use landfall_agent::Agent;
use tokio::sync::watch;

/// Which agents run. Clones share it.
#[derive(Clone, Default)]
pub struct Running {
    agents: Arc<Mutex<Vec<Option<Agent>>>>,
    /// Of each place how often it has changed.
    changes: Arc<watch::Sender<Vec<u64>>>,
}

impl Running {
    /// The agent of `place` runs, or does not any more.
    pub fn set(&self, place: usize, agent: Option<Agent>) {
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if agents.len() <= place {
            agents.resize_with(place + 1, || None);
        }
        agents[place] = agent;
        drop(agents);
        self.changes.send_modify(|changes| {
            changes.resize(changes.len().max(place + 1), 0);
            changes[place] += 1;
        });
    }

    /// What `ask` gives at the agent of `place`; `None` where none runs there, or it dies before it has answered.
    pub async fn ask<T, F: Future<Output = T>>(&self, place: usize, ask: impl FnOnce(Agent) -> F) -> Option<T> {
        let mut changes = self.changes.subscribe();
        let life = changes.borrow_and_update().get(place).copied()?;
        let agent = self.agents.lock().unwrap_or_else(PoisonError::into_inner).get(place)?.clone()?;
        let answer = Box::pin(ask(agent));
        tokio::select! {
            biased;
            _ = changes.wait_for(|changes| changes[place] != life) => None,
            answer = answer => Some(answer),
        }
    }
}
