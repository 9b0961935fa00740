//! Repairing what is damaged in a replica's files here out of the other copies of it, over `landfall-data/1`.
//!
//! Leaves are asked for without holding the replica up; what comes is believed by its hash alone and then written in one
//! go. Whatever no other copy has right stays damaged, is shown as such, and is tried again from time to time.

use std::collections::BTreeMap;
use std::time::Duration;

use landfall_proto::alpn::Alpn;
use landfall_proto::calls::Session;
use landfall_proto::frame::{self, FrameError};
use landfall_proto::id::{MemberId, NodeName, VmId};
use landfall_proto::message::control::PointState;
use landfall_proto::message::data::Hello;
use landfall_proto::message::leaves::{LeafAnswer, LeafRequest};
use landfall_proto::model::Replica;
use landfall_proto::{Class, Refusal};
use quinn::{RecvStream, SendStream};
use tokio::time::{Instant, timeout};

use crate::drive::events::Happening;
use crate::drive::members::data_target;
use crate::drive::node::Node;
use crate::drive::replica::PointEntry;
use crate::drive::replica::proofs::Damage;
use crate::drive::replica::repair::{Fetched, WantedLeaf};
use crate::drive::replicas::Replicas;
use crate::drive::send::capture::blocking;

/// Leaves that are held in memory until they are written: 64 MiB.
const LEAVES_AT_ONCE: usize = 1024;

/// Rounds of asking and writing in one go, at most: 1 GiB. What is worse than that is better copied anew.
const ROUNDS_MAX: u32 = 16;

/// How long another node may take to open a stream, or to answer: reading 64 KiB from a busy disk fits.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often it is looked whether something is damaged here, and how long after a try that left something the next is.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// What came of repairing.
#[derive(Debug, Default)]
pub struct Mended {
    /// Leaves that are right again.
    pub leaves: u64,
    /// The nodes whose copies they came from.
    pub from: Vec<NodeName>,
}

/// Answers another member that asks for parts of a replica's points, as long as both have everything of it.
pub async fn give(
    node: &Node,
    replicas: &Replicas,
    (from, vm): (MemberId, VmId),
    mut send: SendStream,
    mut receive: RecvStream,
) -> Result<(), FrameError> {
    let most = Alpn::Data.frame_max();
    loop {
        let next = timeout(PATIENCE, frame::receive_or_end::<LeafRequest, _>(&mut receive, most));
        let Some(request) = next.await.unwrap_or(Err(FrameError::Late(PATIENCE)))? else { return Ok(()) };
        let read = read(node, replicas, (from, vm), request).await;
        frame::send(&mut send, &read.map_or_else(LeafAnswer::Refused, LeafAnswer::Leaf), most).await?;
    }
}

async fn read(
    node: &Node,
    replicas: &Replicas,
    (from, vm): (MemberId, VmId),
    request: LeafRequest,
) -> Result<Vec<u8>, Refusal> {
    let state = node.state();
    let both = |replica: &&Replica| replica.in_sync.contains(&from) && replica.in_sync.contains(&node.me);
    let replica = state.replicas.get(&vm).filter(both).ok_or_else(|| Refusal::not_found("vm", &vm.to_string()))?;
    let store = replicas.store(replica).await?;
    let pinned = store.lock().await.pin(Some(request.point.sequence))?;
    if pinned.tip() != request.point {
        return Err(Refusal::not_found("point", &request.point.sequence.to_string()));
    }
    let LeafRequest { disk, offset, length, .. } = request;
    blocking(move || pinned.read_leaf(&disk, offset, length)).await
}

/// A stream to another copy.
struct Asked {
    name: NodeName,
    session: Session,
}

impl Asked {
    async fn open(node: &Node, member: MemberId, vm: VmId) -> Result<Self, Refusal> {
        let state = node.state();
        let target = data_target(&state, member).ok_or_else(|| Refusal::not_found("node", &member.to_string()))?;
        let name = state.members.get(&member).map(|member| member.node.clone());
        let name = name.ok_or_else(|| Refusal::not_found("node", &member.to_string()))?;
        let mut session = node.calls.open(&target, Alpn::Data, PATIENCE).await?;
        let sent = frame::send(&mut session.send, &Hello::Leaves { vm }, Alpn::Data.frame_max()).await;
        sent.map_err(|error| broken(&name, &error))?;
        Ok(Self { name, session })
    }

    async fn leaf(&mut self, wanted: &WantedLeaf) -> Result<Vec<u8>, Refusal> {
        let (most, length) = (Alpn::Data.frame_max(), wanted.length as u32);
        let request = LeafRequest { point: wanted.point, disk: wanted.disk.clone(), offset: wanted.offset, length };
        let asked = async {
            frame::send(&mut self.session.send, &request, most).await?;
            frame::receive::<LeafAnswer, _>(&mut self.session.receive, most).await
        };
        match timeout(PATIENCE, asked).await.unwrap_or(Err(FrameError::Late(PATIENCE))) {
            Ok(LeafAnswer::Leaf(data)) => Ok(data),
            Ok(LeafAnswer::Refused(refusal)) => Err(refusal),
            Err(error) => Err(broken(&self.name, &error)),
        }
    }
}

fn broken(name: &NodeName, error: &FrameError) -> Refusal {
    Refusal::new(Class::Unreachable, "copy_unreachable", format!("the copy on {name} is not reached: {error}"))
}

impl Replicas {
    /// Repairs the ranges `damage` of a replica here, as far as another copy has what belongs there.
    pub(super) async fn mend(&self, replica: &Replica, damage: &[Damage]) -> Result<Mended, Refusal> {
        let (node, mut mended) = (self.node().clone(), Mended::default());
        let others: Vec<MemberId> = match replica.in_sync.contains(&node.me) {
            true => replica.in_sync.iter().copied().filter(|member| *member != node.me).collect(),
            false => Vec::new(),
        };
        for _ in 0..ROUNDS_MAX {
            let (guard, parts) = (self.store(replica).await?.lock_owned().await, damage.to_vec());
            let wanted = blocking(move || guard.wanted(&parts, LEAVES_AT_ONCE)).await?;
            let fetched = self.fetch(replica.vm.id, &others, &wanted, &mut mended.from).await;
            if !wanted.iter().any(|leaf| fetched.has(leaf)) {
                break;
            }
            let (mut guard, parts, mut fetched) =
                (self.store(replica).await?.lock_owned().await, damage.to_vec(), fetched);
            let leaves = blocking(move || guard.repair(&parts, &mut fetched)).await?;
            mended.leaves += leaves;
            if leaves == 0 {
                break;
            }
        }
        Ok(mended)
    }

    /// Asks the other copies for leaves, one copy after the other for what the ones before did not have.
    async fn fetch(&self, vm: VmId, others: &[MemberId], wanted: &[WantedLeaf], from: &mut Vec<NodeName>) -> Fetched {
        let mut fetched = Fetched::default();
        for member in others {
            let missing: Vec<WantedLeaf> = wanted.iter().filter(|leaf| !fetched.has(leaf)).cloned().collect();
            if missing.is_empty() {
                break;
            }
            let mut asked = match Asked::open(self.node(), *member, vm).await {
                Ok(asked) => asked,
                Err(refusal) => {
                    tracing::info!(%vm, %member, %refusal, "a copy cannot be asked for what is damaged here");
                    continue;
                }
            };
            for leaf in &missing {
                match asked.leaf(leaf).await {
                    Ok(data) if !fetched.take(leaf, &data) => {
                        tracing::warn!(%vm, %member, offset = leaf.offset, "that copy is damaged there, too");
                    }
                    Ok(_) if from.contains(&asked.name) => {}
                    Ok(_) => from.push(asked.name.clone()),
                    Err(refusal) if refusal.code == "copy_unreachable" => {
                        tracing::info!(%vm, %member, %refusal, "a copy cannot be asked for what is damaged here");
                        break;
                    }
                    Err(refusal) => tracing::info!(%vm, %member, %refusal, "a copy does not have a leaf"),
                }
            }
        }
        fetched
    }

    /// Repairs what a point was found damaged in: what was repaired, in words, and what is left. The replica goes on
    /// meanwhile; what cannot be tried now is left.
    pub(super) async fn mend_point(
        &self,
        replica: &Replica,
        point: &PointEntry,
        damage: Vec<Damage>,
    ) -> Result<(Option<String>, Vec<Damage>), Refusal> {
        if damage.is_empty() {
            return Ok((None, damage));
        }
        let mended = match self.mend(replica, &damage).await {
            Ok(mended) => mended,
            Err(refusal) => {
                tracing::warn!(vm = %replica.vm.id, %refusal, "what is damaged is not repaired now");
                return Ok((None, damage));
            }
        };
        if mended.leaves == 0 {
            return Ok((None, damage));
        }
        let told = self.tell_mended(replica, &mended, &damage);
        let (guard, entry) = (self.store(replica).await?.lock_owned().await, point.clone());
        let left = blocking(move || guard.left_of(&entry, damage)).await?;
        Ok((Some(told), left))
    }

    fn tell_mended(&self, replica: &Replica, mended: &Mended, damage: &[Damage]) -> String {
        let ranges: Vec<String> = damage.iter().take(3).map(ToString::to_string).collect();
        let from: Vec<&str> = mended.from.iter().map(NodeName::as_str).collect();
        let told = format!("{}, out of the copy on {}", ranges.join("; "), from.join(", "));
        let event = format!("the replica of {} is repaired here: {told}", replica.vm.name);
        let event = Happening::warning("point_repaired", event).vm(replica.vm.id).node(&self.node().name);
        self.node().events.record(event.with("leaves", &mended.leaves).with("from", &from.join(",")));
        told
    }

    /// Tries again to repair what stayed damaged: the other copy could not be reached, or somebody read the files. Never
    /// ends.
    pub(super) async fn mend_all(&self) {
        let mut look = self.node().rhythm(LOOK_INTERVAL);
        let mut tried: BTreeMap<VmId, Instant> = BTreeMap::new();
        loop {
            look.tick().await;
            let state = self.node().state();
            tried.retain(|vm, at| at.elapsed() < AGAIN_AFTER && self.has_points_in(*vm, PointState::Damaged));
            let kept = state.replicas.values().filter(|replica| replica.is_kept_at(self.node().me));
            let damaged = kept.filter(|replica| self.has_points_in(replica.vm.id, PointState::Damaged));
            let damaged: Vec<Replica> = damaged.cloned().collect();
            for replica in &damaged {
                if tried.contains_key(&replica.vm.id) {
                    continue;
                }
                tried.insert(replica.vm.id, Instant::now());
                if let Err(refusal) = self.mend_known(replica).await {
                    tracing::info!(vm = %replica.vm.id, %refusal, "what is damaged is not repaired now");
                }
            }
        }
    }

    async fn mend_known(&self, replica: &Replica) -> Result<(), Refusal> {
        let store = self.store(replica).await?;
        let damage = store.lock().await.known_damage();
        let mended = self.mend(replica, &damage).await?;
        if mended.leaves > 0 {
            self.tell_mended(replica, &mended, &damage);
            self.note(replica.vm.id, replica.epoch, &*store.lock().await);
        }
        Ok(())
    }
}
