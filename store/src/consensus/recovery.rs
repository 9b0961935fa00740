//! `cluster recover`: a cluster that has lost its majority for good begins its next life with one node.
//!
//! It loses nothing that this node has, including entries that it cannot know to be committed. Positions of the next
//! life are above every one of the last, so whatever an older node says later is older. The next life is one snapshot, which
//! is written in one batch and contains an entry that no log has: it takes the place of whatever snapshot there is, and a
//! crash leaves either life whole.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use landfall_proto::id::MemberId;
use openraft::storage::{RaftLogStorage, RaftStateMachine};
use openraft::{EmptyNode, RaftLogReader, RaftSnapshotBuilder};

use super::OpenError;
use super::log_store::LogStore;
use super::machine::Machine;
use super::tail::Tail;
use super::types::{LogId, StorageError};
use crate::kv::Kv;
use crate::state::{State, Survivor};

fn stored<T>(result: Result<T, StorageError>) -> Result<T, OpenError> {
    result.map_err(|error| OpenError::Store(error.to_string()))
}

/// The state with every entry that this node has, committed or not, and the log that they are in.
async fn whole(kv: Arc<dyn Kv>, me: MemberId) -> Result<(Machine, LogStore), StorageError> {
    let tail = Arc::<Tail>::default();
    let mut machine = Machine::open(kv.clone(), tail.clone())?;
    let mut log = LogStore::new(kv, me, tail);
    let entries = log.try_get_log_entries(machine.next_index()..).await?;
    machine.apply(entries).await?;
    Ok((machine, log))
}

/// The state that the next life would begin with, were `me` to begin it; nothing is written, and consensus may run.
pub async fn foresee(kv: Arc<dyn Kv>, me: MemberId) -> Result<Arc<State>, OpenError> {
    let (machine, _) = stored(whole(kv, me).await)?;
    let state = machine.watch().borrow().clone();
    Ok(state)
}

/// Rewrites the store of `survivor`, whose consensus is stopped, so that it is the only voter and the only member of the
/// cluster's next life. Returns the state with which that begins. Where it is refused nothing has changed.
pub async fn recover(kv: Arc<dyn Kv>, survivor: &Survivor) -> Result<Arc<State>, OpenError> {
    let (mut machine, mut log) = stored(whole(kv, survivor.member).await)?;
    let Some(last) = stored(machine.applied_state().await)?.0 else {
        return Err(OpenError::Store("there is no log and no state to go on with".to_owned()));
    };
    let first = LogId { index: last.index + 1, ..last };
    let voters = vec![BTreeSet::from([survivor.member.number()])];
    let nodes = BTreeMap::from([(survivor.member.number(), EmptyNode::default())]);
    let state = machine
        .rewrite(first, openraft::Membership::new(voters, nodes), |state| state.begin_next_life(first.index, survivor))
        .map_err(|refusal| OpenError::Store(refusal.message))?;
    stored(machine.get_snapshot_builder().await.build_snapshot().await)?;
    stored(log.purge(first).await)?;
    Ok(state)
}
