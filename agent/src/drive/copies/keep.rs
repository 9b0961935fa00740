//! The part of every node that has a copy and does not hold the replica: it stages what the holder passes on, and applies
//! it at the holder's word.

use std::sync::Arc;
use std::time::Duration;

use landfall_proto::alpn::Alpn;
use landfall_proto::frame::{self, FrameError};
use landfall_proto::id::MemberId;
use landfall_proto::message::pass::{PassAnswer, PassHello, PassRequest};
use landfall_proto::model::Replica;
use landfall_proto::{Class, Refusal};
use landfall_store::State;
use quinn::{RecvStream, SendStream};
use tokio::sync::{OwnedMutexGuard, watch};
use tokio::time::{Instant, timeout};

use crate::drive::node::Node;
use crate::drive::replica::{Epochs, ReplicaStore};
use crate::drive::replicas::{Replicas, SharedStore};
use crate::drive::send::capture::blocking;

/// How long this node waits for an assignment that the holder has seen already.
const CATCH_UP: Duration = Duration::from_secs(2);

/// How long the holder may say nothing: a primary may be slow, and a change set of the longest interval is on its way.
const SILENCE_MAX: Duration = Duration::from_secs(900);

/// Serves one stream of the holder `from`.
pub async fn keep(
    node: &Node,
    replicas: &Replicas,
    from: MemberId,
    hello: PassHello,
    mut send: SendStream,
    mut receive: RecvStream,
) -> Result<(), FrameError> {
    let most = Alpn::Data.frame_max();
    let kept = Kept { node, replicas, from, hello };
    let (store, stands) = match kept.begin().await {
        Ok(begun) => begun,
        Err(refusal) => {
            frame::send(&mut send, &PassAnswer::Refused(refusal), most).await?;
            drop(send.finish());
            return Ok(());
        }
    };
    frame::send(&mut send, &stands, most).await?;
    let mut states = node.consensus.watch_state();
    loop {
        let next = timeout(SILENCE_MAX, frame::receive_or_end::<PassRequest, _>(&mut receive, most));
        let answer = tokio::select! {
            next = next => {
                let Some(request) = next.unwrap_or(Err(FrameError::Late(SILENCE_MAX)))? else { return Ok(()) };
                kept.answer(&store, request).await
            }
            // Another holder must not wait until this one has given up.
            refusal = kept.superseded(&mut states) => Err(refusal),
        };
        match answer {
            Ok(None) => {}
            Ok(Some(answer)) => frame::send(&mut send, &answer, most).await?,
            Err(refusal) => {
                tracing::info!(vm = %kept.hello.vm, %refusal, "what the holder passed on is refused");
                frame::send(&mut send, &PassAnswer::Refused(refusal), most).await?;
                drop(send.finish());
                return Ok(());
            }
        }
    }
}

struct Kept<'a> {
    node: &'a Node,
    replicas: &'a Replicas,
    from: MemberId,
    hello: PassHello,
}

impl Kept<'_> {
    fn epochs(&self) -> Epochs {
        Epochs { assignment: self.hello.epoch, cluster: self.hello.cluster, sender: self.hello.sender }
    }

    /// The replica, as long as the caller holds it at the epoch of the stream and this node has, or makes, a copy.
    fn held<'a>(&self, state: &'a State) -> Result<&'a Replica, Refusal> {
        let vm = self.hello.vm;
        let replica = state.replicas.get(&vm).ok_or_else(|| Refusal::not_found("vm", &vm.to_string()))?;
        if replica.receiver() != self.from || replica.epoch != self.hello.epoch {
            let message = format!("{} is held by member {} at epoch {}", replica.vm.name, self.from, self.hello.epoch);
            return Err(
                Refusal::new(Class::Refused, "stale_epoch", format!("no longer true: {message}")).field("epoch")
            );
        }
        let me = self.node.me;
        if !replica.in_sync.contains(&me) && replica.copying_since(me).is_none() {
            let message = format!("this node is not to have a copy of {}", replica.vm.name);
            return Err(Refusal::new(Class::Refused, "no_copy", message).field("vm"));
        }
        Ok(replica)
    }

    async fn begin(&self) -> Result<(SharedStore, PassAnswer), Refusal> {
        let reached = self.node.proposer.applied(self.hello.epoch.0, Instant::now() + CATCH_UP).await;
        let state = reached.unwrap_or_else(|_| self.node.state());
        let replica = self.held(&state)?;
        let store = self.replicas.store(replica).await?;
        let (epochs, PassHello { newest, staged, .. }) = (self.epochs(), self.hello.clone());
        let points = replica.recovery_points;
        let mut guard = self.locked(&store).await?;
        let (guard, (newest, staged)) = blocking(move || {
            guard.set_recovery_points(points)?;
            let stands = guard.agree(&epochs, newest, staged)?;
            Ok((guard, stands))
        })
        .await?;
        self.replicas.note(self.hello.vm, epochs.assignment, &guard);
        drop(guard);
        Ok((store, PassAnswer::Stands { newest, staged }))
    }

    /// Waits until the committed state makes the stream void, and says why.
    async fn superseded(&self, states: &mut watch::Receiver<Arc<State>>) -> Refusal {
        loop {
            if let Err(refusal) = self.held(&states.borrow_and_update().clone()) {
                return refusal;
            }
            if states.changed().await.is_err() {
                return Refusal::new(Class::Unreachable, "ending", "the agent ends");
            }
        }
    }

    /// The store for this stream alone. Whoever holds the replica now may have it, and wait for the caller: then the
    /// stream ends at once.
    async fn locked(&self, store: &SharedStore) -> Result<OwnedMutexGuard<ReplicaStore>, Refusal> {
        let mut states = self.node.consensus.watch_state();
        tokio::select! {
            guard = Arc::clone(store).lock_owned() => Ok(guard),
            refusal = self.superseded(&mut states) => Err(refusal),
        }
    }

    async fn answer(&self, store: &SharedStore, request: PassRequest) -> Result<Option<PassAnswer>, Refusal> {
        let state = self.node.state();
        let points = self.held(&state)?.recovery_points;
        let disks_at_once = state.resolved_settings().apply_disk_limit;
        let epochs = self.epochs();
        let mut guard = self.locked(store).await?;
        let (guard, answer) = blocking(move || {
            let answer = match request {
                PassRequest::Begin(set) => guard.begin(&epochs, &set).map(|_| None),
                PassRequest::Extent(extent) => guard.append(&epochs, &extent).map(|()| None),
                PassRequest::End { extents } => {
                    guard.finish(&epochs, extents).map(|staged| Some(PassAnswer::Staged(staged.tip)))
                }
                PassRequest::Apply(tip) => {
                    guard.set_disks_at_once(disks_at_once);
                    let applied = guard.check_session(&epochs).and_then(|()| guard.apply(tip));
                    applied.and_then(|()| guard.set_recovery_points(points)).map(|()| Some(PassAnswer::Applied(tip)))
                }
            };
            Ok((guard, answer))
        })
        .await?;
        if !matches!(answer, Ok(None)) {
            // Also a failure: the owner must hear of it.
            self.replicas.note(self.hello.vm, epochs.assignment, &guard);
        }
        answer
    }
}
