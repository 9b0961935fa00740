//! `cluster recover`: a cluster that has lost its majority for good begins its next life with one node.
//!
//! It loses nothing that this node has, including entries that it cannot know to be committed. Positions of the next
//! life are above every one of the last, so whatever an older node says later is older.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use landfall_proto::id::{MemberId, Position, Revision};
use openraft::storage::{RaftLogStorage, RaftStateMachine};
use openraft::{EmptyNode, RaftLogReader, RaftSnapshotBuilder};

use super::OpenError;
use super::log_store::LogStore;
use super::machine::Machine;
use super::tail::Tail;
use super::types::{Membership, StorageError};
use crate::kv::Kv;
use crate::state::State;

/// Rewrites the store of `me`, whose consensus is stopped, so that it is the only voter of the cluster's next life.
/// The other members stay in the committed state until they are removed; their nodes can only join again.
pub async fn recover(kv: Arc<dyn Kv>, me: MemberId) -> Result<State, OpenError> {
    begin_next_life(kv, me).await.map_err(|error| OpenError::Store(error.to_string()))
}

async fn begin_next_life(kv: Arc<dyn Kv>, me: MemberId) -> Result<State, StorageError> {
    let tail = Arc::<Tail>::default();
    let mut machine = Machine::open(kv.clone(), tail.clone())?;
    let mut log = LogStore::new(kv, me, tail);
    let entries = log.try_get_log_entries(machine.next_index()..).await?;
    machine.apply(entries).await?;
    let voters = vec![BTreeSet::from([me.number()])];
    let nodes = BTreeMap::from([(me.number(), EmptyNode::default())]);
    let applied = machine.applied_state().await?.0;
    let state = machine.rewrite(Membership::new(applied, openraft::Membership::new(voters, nodes)), next_life);
    machine.get_snapshot_builder().await.build_snapshot().await?;
    if let Some(applied) = applied {
        log.purge(applied).await?;
    }
    Ok(State::clone(&state))
}

/// What changes in the committed state: the life, and everything that is ordered by it.
fn next_life(state: &mut State) {
    state.incarnation += 1;
    let now = Position::new(state.incarnation, state.applied.index());
    state.applied = now;
    state.members_changed = now;
    state.settings.revision = Revision(now);
    state.settings.floor = Revision(now);
    state.settings.history.clear();
    state.claim = None;
}
