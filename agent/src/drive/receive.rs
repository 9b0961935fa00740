//! Receiving replicas: the holder's end of `landfall-data/1`.
//!
//! A session is admitted only by the node that the committed state names, at its assignment, and only from a primary
//! that the authorization table allows; each change set is checked against both again before it is acknowledged.

mod barred;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use landfall_proto::alpn::Alpn;
use landfall_proto::endpoint::Link;
use landfall_proto::frame;
use landfall_proto::id::{Epoch, Fingerprint, Fqdn, SenderEpoch, VmId};
use landfall_proto::limits::DATA_STREAMS;
use landfall_proto::message::broker::Location;
use landfall_proto::message::control::{Point, Traffic};
use landfall_proto::message::data::{ChangeSet, DataAnswer, DataRequest, Hello, POINTS_TOLD, Welcome};
use landfall_proto::model::{DiskSpec, Replica};
use landfall_proto::trust::Caller;
use landfall_proto::verb::Verb;
use landfall_proto::{Class, Refusal};
use landfall_store::State;
use quinn::{RecvStream, SendStream};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, timeout};

use self::barred::{failed_over, stopped};
use crate::drive::applying::Applying;
use crate::drive::copies::passing::Passing;
use crate::drive::copies::{Pending, keep};
use crate::drive::events::Happening;
use crate::drive::handover;
use crate::drive::image::extent;
use crate::drive::mending;
use crate::drive::node::Node;
use crate::drive::pack::Unpacker;
use crate::drive::replica::{Begun, Epochs, ReplicaStore, Standing};
use crate::drive::replicas::{Replicas, SharedStore};
use crate::drive::send::capture::blocking;
use crate::drive::{admission, broker, confirm, peers};

/// How long an opener may take to say what it wants.
const HELLO_DEADLINE: Duration = Duration::from_secs(5);

/// How long a session waits for this node to apply an assignment that the opener has seen already.
const CATCH_UP: Duration = Duration::from_secs(2);

/// Frames between the network and the disk of one session: 8 MiB at most.
const FRAMES_AHEAD: usize = 8;

/// Where replicas land.
#[derive(Clone)]
pub struct Receiver {
    pub(super) node: Node,
    pub(super) replicas: Replicas,
    pub(super) pending: Pending,
    pub(super) applying: Applying,
    confirmed: confirm::Confirmed,
    sessions: Arc<Mutex<BTreeMap<VmId, watch::Sender<bool>>>>,
}

/// Who asks for a session, and for which.
struct Asking<'a> {
    cap: &'a Fqdn,
    key: Fingerprint,
    vm: VmId,
    epoch: Epoch,
    sender: SenderEpoch,
}

/// A session that was admitted.
struct Admitted {
    vm: VmId,
    primary: Fqdn,
    key: Fingerprint,
    epochs: Epochs,
    store: SharedStore,
}

impl Receiver {
    /// A receiver for `replicas`.
    pub fn new(node: Node, replicas: Replicas, confirmed: confirm::Confirmed) -> Self {
        let (pending, applying) = (Pending::default(), Applying::default());
        Self { node, replicas, pending, applying, confirmed, sessions: Arc::default() }
    }

    /// Serves the sessions of one connection until it ends.
    pub async fn serve(&self, link: Link) {
        let slots = Arc::new(Semaphore::new(DATA_STREAMS as usize));
        while let Ok((send, receive)) = link.connection().accept_bi().await {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            let (this, link) = (self.clone(), link.clone());
            tokio::spawn(async move {
                if let Err(error) = this.session(&link, send, receive).await {
                    tracing::debug!(from = %link.remote(), %error, "data session ended");
                }
                drop(slot);
            });
        }
    }

    async fn session(
        &self,
        link: &Link,
        mut send: SendStream,
        mut receive: RecvStream,
    ) -> Result<(), frame::FrameError> {
        let most = Alpn::Data.frame_max();
        let hello = timeout(HELLO_DEADLINE, frame::receive::<Hello, _>(&mut receive, most));
        let hello = hello.await.unwrap_or(Err(frame::FrameError::Late(HELLO_DEADLINE)))?;
        let caller = link.caller();
        let verb = Verb::of_session(&hello);
        let allowed = verb.is_allowed(&admission::parties(&self.node.state(), &caller, None));
        match (hello, caller.as_ref()) {
            (Hello::Send { vm, epoch, sender_epoch, disks, known }, Caller::PeerNode { cap, member }) if allowed => {
                let asking = Asking { cap, key: member.key, vm, epoch, sender: sender_epoch };
                let admitted = Box::pin(self.admit(asking, disks, known)).await;
                let (admitted, welcome) = match admitted {
                    Ok(pair) => pair,
                    Err(welcome) => {
                        if let Welcome::Refused(refusal) = &welcome {
                            self.tell_refused(cap, vm, refusal);
                        }
                        frame::send(&mut send, &welcome, most).await?;
                        drop(send.finish());
                        return Ok(());
                    }
                };
                frame::send(&mut send, &welcome, most).await?;
                self.take(admitted, send, receive).await
            }
            (Hello::Copy { vm, epoch }, Caller::Member { member }) if allowed => {
                let asked = handover::Asked { to: member.id, vm, epoch };
                Box::pin(handover::give(&self.node, &self.replicas, &self.pending, asked, send, receive)).await
            }
            (Hello::Leaves { vm }, Caller::Member { member }) if allowed => {
                Box::pin(mending::give(&self.node, &self.replicas, (member.id, vm), send, receive)).await
            }
            (Hello::Pass(hello), Caller::Member { member }) if allowed => {
                Box::pin(keep::keep(&self.node, &self.replicas, member.id, *hello, send, receive)).await
            }
            (_, caller) => {
                let refusal = admission::not_allowed(caller, verb);
                self.node.events.refuse("session_refused", &admission::who(caller), &refusal.message);
                frame::send(&mut send, &Welcome::Refused(refusal), most).await
            }
        }
    }

    /// Admits a sender, or says where else to go.
    async fn admit(
        &self,
        asking: Asking<'_>,
        disks: Vec<DiskSpec>,
        known: Vec<Point>,
    ) -> Result<(Admitted, Welcome), Welcome> {
        let Asking { cap: primary, key, vm, epoch, sender } = asking;
        if let Some(refusal) = peers::outdated(&self.node, primary) {
            return Err(Welcome::Refused(refusal));
        }
        let reached = self.node.proposer.applied(epoch.0, Instant::now() + CATCH_UP).await;
        let state = reached.unwrap_or_else(|_| self.node.state());
        let Ok(replica) = broker::replica_of(&state, primary, vm) else { return Err(Welcome::NotHere) };
        if replica.receiver() != self.node.me {
            return Err(self.elsewhere(&state, replica).map_or(Welcome::NotHere, Welcome::Moved));
        }
        if epoch < replica.epoch {
            // The opener is behind: it learns the assignment and comes back.
            return Err(self.elsewhere(&state, replica).map_or(Welcome::NotHere, Welcome::Moved));
        }
        if epoch > replica.epoch {
            return Err(Welcome::NotHere);
        }
        // Known to this node's TLS, and not, or no more, to the state: the sender asks again.
        let cluster = broker::cluster_of(&state, primary, &key).ok_or(Welcome::NotHere)?;
        let replica = broker::replica_sent_by(&state, primary, vm).map_err(Welcome::Refused)?;
        if let Some(refusal) = stopped(replica).or_else(|| failed_over(&state, replica)) {
            return Err(Welcome::Refused(refusal));
        }
        let store = self.replicas.store(replica).await.map_err(Welcome::Refused)?;
        let epochs = Epochs { assignment: epoch, cluster, sender };
        let points = replica.recovery_points;
        let mut guard = Arc::clone(&store).lock_owned().await;
        let (this, handle) = (self.clone(), Handle::current());
        let stood = blocking(move || {
            let standing = this.stand(&handle, (vm, epochs), &mut guard, (points, &disks, &known));
            Ok((guard, standing))
        })
        .await;
        let (guard, standing) = stood.map_err(Welcome::Refused)?;
        self.replicas.note(vm, epoch, &guard);
        let mut points = self.replicas.points(&guard);
        drop(guard);
        points.drain(..points.len().saturating_sub(POINTS_TOLD));
        let standing = standing.map_err(Welcome::Refused)?;
        let Standing { newest, staged, comparable, .. } = standing;
        let confirmed = self.confirmed.ensure(&self.node).await;
        let welcome = Welcome::Ready { newest, staged, comparable, points, confirmed };
        Ok((Admitted { vm, primary: primary.clone(), key, epochs, store }, welcome))
    }

    /// Admits a session to a store. What is staged whole may have been acknowledged by the node that staged it, so it is
    /// completed, never dropped. Blocks.
    fn stand(
        &self,
        handle: &Handle,
        (vm, epochs): (VmId, Epochs),
        store: &mut ReplicaStore,
        (points, disks, known): (u8, &[DiskSpec], &[Point]),
    ) -> Result<Standing, Refusal> {
        store.set_recovery_points(points)?;
        let standing = store.admit(&epochs, disks, known)?;
        if !standing.staged_whole {
            return Ok(standing);
        }
        let state = self.node.state();
        let holds =
            |replica: &&Replica| replica.acknowledged && replica.seeding.is_none() && replica.holder == self.node.me;
        if state.replicas.get(&vm).filter(holds).is_none() {
            // Nobody else has anything of it, and what was left here says nothing about what is to be acknowledged.
            store.commit()?;
            self.replicas.listed(vm, store);
            return Ok(store.standing());
        }
        let mut passing = Passing::new(self.node.clone(), self.pending.clone(), handle.clone(), vm, epochs);
        let mine = || self.holds(vm, epochs.assignment);
        self.complete(handle, (vm, epochs.assignment), store, &mut passing, Duration::ZERO, &mine)?;
        Ok(store.standing())
    }

    /// Takes what an admitted sender sends, until it goes, a newer session comes, or something is wrong.
    async fn take(
        &self,
        admitted: Admitted,
        mut send: SendStream,
        mut receive: RecvStream,
    ) -> Result<(), frame::FrameError> {
        let most = Alpn::Data.frame_max();
        let vm = admitted.vm;
        let mut replaced = self.begin_session(vm);
        let (requests, incoming) = mpsc::channel(FRAMES_AHEAD);
        let (outgoing, mut answers) = mpsc::channel(FRAMES_AHEAD);
        let this = self.clone();
        let handle = Handle::current();
        let landing = tokio::task::spawn_blocking(move || this.land(&handle, &admitted, incoming, &outgoing));
        let reading = async {
            loop {
                let request = frame::receive_sized::<DataRequest, _>(&mut receive, most).await?;
                match request {
                    Some((DataRequest::Bye, _)) | None => return Ok(()),
                    Some((request, wire_bytes)) => {
                        self.replicas.received(vm, Traffic { sent_bytes: 0, wire_bytes });
                        if requests.send(request).await.is_err() {
                            return Ok(());
                        }
                    }
                }
            }
        };
        let writing = async {
            while let Some(answer) = answers.recv().await {
                let last = matches!(answer, DataAnswer::Refused(_) | DataAnswer::Moved(_));
                let frame = frame::encode(&answer, most)?;
                self.replicas.received(vm, Traffic { sent_bytes: 0, wire_bytes: frame.len() as u64 });
                send.write_all(&frame).await.map_err(std::io::Error::from)?;
                if last {
                    break;
                }
            }
            drop(send.finish());
            Ok::<(), frame::FrameError>(())
        };
        let ended = tokio::select! {
            ended = reading => ended,
            ended = writing => ended,
            _ = replaced.wait_for(|replaced| *replaced) => Ok(()),
        };
        drop(requests);
        drop(landing.await);
        ended
    }

    /// Ends an earlier session over the same VM; whoever holds the receiver is told when it is replaced in turn.
    fn begin_session(&self, vm: VmId) -> watch::Receiver<bool> {
        let (begun, replaced) = watch::channel(false);
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(earlier) = sessions.insert(vm, begun) {
            earlier.send_replace(true);
        }
        replaced
    }

    /// Works off the requests of one session on a thread that may block.
    fn land(
        &self,
        handle: &Handle,
        admitted: &Admitted,
        mut requests: mpsc::Receiver<DataRequest>,
        answers: &mpsc::Sender<DataAnswer>,
    ) {
        let (mut receiving, mut unpacker) = (false, Unpacker::default());
        let (node, pending) = (self.node.clone(), self.pending.clone());
        let mut passing = Passing::new(node, pending, handle.clone(), admitted.vm, admitted.epochs);
        while let Some(request) = requests.blocking_recv() {
            let request = unpacker.whole(request);
            let content = matches!(request, Ok(DataRequest::Fill(_) | DataRequest::Extent(_)));
            let answer = match request.and_then(|request| self.land_one(handle, admitted, &mut passing, request)) {
                Ok(answer) => {
                    if content && !receiving {
                        receiving = true;
                        self.tell_receiving(admitted);
                    }
                    if matches!(answer, Some(DataAnswer::Acknowledged { .. })) {
                        self.replicas.note_staging(admitted.vm, None);
                    }
                    answer
                }
                Err(refusal) => {
                    tracing::info!(vm = %admitted.vm, %refusal, "change set refused");
                    self.replicas.note_staging(admitted.vm, Some(&refusal));
                    Some(self.refusal_of(admitted, refusal))
                }
            };
            if let Some(answer) = answer {
                let last = matches!(answer, DataAnswer::Refused(_) | DataAnswer::Moved(_));
                if answers.blocking_send(answer).is_err() || last {
                    return;
                }
            }
        }
    }

    /// Tells of a session's first content, once a session: from now on the replica comes nearer to its primary again.
    fn tell_receiving(&self, admitted: &Admitted) {
        let Admitted { vm, epochs, primary, .. } = admitted;
        let told = format!("{} receives the replica of {vm} from {primary}", self.node.name);
        let event = Happening::info("replica_receiving", told).vm(*vm).node(&self.node.name);
        self.node.events.record(event.with("epoch", &epochs.assignment));
    }

    fn land_one(
        &self,
        handle: &Handle,
        admitted: &Admitted,
        passing: &mut Passing,
        request: DataRequest,
    ) -> Result<Option<DataAnswer>, Refusal> {
        let Admitted { vm, epochs, store, .. } = admitted;
        let mut store = self.thawed(handle, *vm, store);
        match request {
            DataRequest::Compare { disk, node_bytes, first, count } => {
                store.hashes(&disk, node_bytes, first, count).map(|hashes| Some(DataAnswer::Hashes(hashes)))
            }
            DataRequest::Fill(extent) => {
                store.fill(epochs, &extent)?;
                self.replicas.received(*vm, Traffic { sent_bytes: extent::length(&extent), wire_bytes: 0 });
                Ok(None)
            }
            DataRequest::Begin(set) => {
                self.check(admitted)?;
                let stays = self.replicas.stays(&self.replica(admitted)?, &store, set.tip);
                let set = ChangeSet { stays, ..set };
                match store.begin(epochs, &set)? {
                    Begun::Staging(0) => passing.begin(&store, &set),
                    Begun::Staging(_) | Begun::Whole | Begun::Listed => passing.hold_back(),
                }
                Ok(Some(DataAnswer::Go))
            }
            DataRequest::Extent(extent) => {
                store.append(epochs, &extent)?;
                self.replicas.received(*vm, Traffic { sent_bytes: extent::length(&extent), wire_bytes: 0 });
                passing.extent(extent);
                Ok(None)
            }
            DataRequest::End { extents } => {
                let begun = Instant::now();
                passing.end(extents);
                store.finish(epochs, extents)?;
                let (of, own) = ((*vm, epochs.assignment), begun.elapsed());
                let point = self.complete(handle, of, &mut store, passing, own, &|| self.check(admitted))?;
                let confirmed = handle.block_on(self.confirmed.ensure(&self.node));
                Ok(Some(DataAnswer::Acknowledged { point, confirmed }))
            }
            DataRequest::FillPacked(_) | DataRequest::ExtentPacked(_) | DataRequest::Bye => Ok(None),
        }
    }

    /// What is committed of the replica of a session.
    fn replica(&self, admitted: &Admitted) -> Result<Replica, Refusal> {
        let state = self.node.state();
        broker::replica_sent_by(&state, &admitted.primary, admitted.vm).cloned()
    }

    /// Whether this node still receives the replica at the session's assignment, and the sender is still allowed.
    fn check(&self, admitted: &Admitted) -> Result<(), Refusal> {
        if let Some(refusal) = peers::outdated(&self.node, &admitted.primary) {
            return Err(refusal);
        }
        let state = self.node.state();
        let replica = broker::replica_sent_by(&state, &admitted.primary, admitted.vm)?;
        if let Some(refusal) = stopped(replica).or_else(|| failed_over(&state, replica)) {
            return Err(refusal);
        }
        if broker::cluster_of(&state, &admitted.primary, &admitted.key) != Some(admitted.epochs.cluster) {
            let message = format!("the sender is of no cluster that is paired as {} now", admitted.primary);
            return Err(Refusal::new(Class::Refused, "other_cluster", message).field("primary"));
        }
        if replica.receiver() != self.node.me || replica.epoch != admitted.epochs.assignment {
            return Err(Refusal::new(
                Class::Refused,
                "stale_epoch",
                format!("the replica is received at epoch {} now, not {}", replica.epoch, admitted.epochs.assignment),
            )
            .field("epoch"));
        }
        Ok(())
    }

    fn tell_refused(&self, primary: &Fqdn, vm: VmId, refusal: &Refusal) {
        let why = format!("data of {vm}: {}", refusal.message);
        self.node.events.refuse("session_refused", primary.as_str(), &why);
    }

    /// A refusal as the sender should take it: one for being at the wrong place says where the right one is.
    fn refusal_of(&self, admitted: &Admitted, refusal: Refusal) -> DataAnswer {
        let state = self.node.state();
        let moved = state
            .replicas
            .get(&admitted.vm)
            .filter(|replica| replica.receiver() != self.node.me || replica.epoch != admitted.epochs.assignment)
            .and_then(|replica| self.elsewhere(&state, replica));
        match moved {
            Some(to) => DataAnswer::Moved(to),
            None => {
                self.tell_refused(&admitted.primary, admitted.vm, &refusal);
                DataAnswer::Refused(refusal)
            }
        }
    }

    /// Where a replica is received, as a sender is told. A node whose file drops the notices says it in no way, so that
    /// the sender must ask the CAP.
    fn elsewhere(&self, state: &State, replica: &Replica) -> Option<Location> {
        let silent = self.node.config.testing.drop_moved_notices && replica.receiver() != self.node.me;
        if silent { None } else { broker::location(state, replica).ok() }
    }
}
