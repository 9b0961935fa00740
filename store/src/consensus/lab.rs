//! Real consensus nodes in one process, on paused time, over a wire that can be cut.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use landfall_proto::id::{Fingerprint, MemberId, NodeName, Term, UnixMillis};
use landfall_proto::model::{Answer, Command, Found, Outcome, Proposal, Ticket, TicketKind, Timing};
use landfall_proto::seam::{Clock, Random, Time};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::time::Instant;

use super::*;
use crate::memory_kv::MemoryKv;
pub(super) use crate::state::fixture::founding;

/// tokio's paused time.
#[derive(Debug)]
pub(super) struct LabClock(Instant);

impl Clock for LabClock {
    fn now(&self) -> Time {
        Time(self.0.elapsed())
    }
    fn wall(&self) -> UnixMillis {
        UnixMillis(1_800_000_000_000 + self.0.elapsed().as_millis() as u64)
    }
}

#[derive(Debug)]
struct LabRandom(Mutex<ChaCha8Rng>);

impl Random for LabRandom {
    fn fill(&self, bytes: &mut [u8]) {
        self.0.lock().unwrap().fill_bytes(bytes);
    }
}

#[derive(Debug, Default)]
pub(super) struct Net {
    nodes: Mutex<BTreeMap<MemberId, Consensus>>,
    /// Directions that carry nothing.
    cut: Mutex<BTreeSet<(MemberId, MemberId)>>,
    /// The largest payload so far.
    pub(super) largest: AtomicU64,
}

impl Net {
    fn open(&self, from: MemberId, to: MemberId) -> Result<(), WireError> {
        if self.cut.lock().unwrap().contains(&(from, to)) {
            return Err(WireError::Unreachable("cut".to_owned()));
        }
        Ok(())
    }
}

#[derive(Debug)]
struct LabWire {
    me: MemberId,
    net: Arc<Net>,
}

#[async_trait::async_trait]
impl Wire for LabWire {
    async fn call(&self, to: MemberId, rpc: Rpc, payload: Vec<u8>, _: Duration) -> Result<Vec<u8>, WireError> {
        self.net.largest.fetch_max(payload.len() as u64, Ordering::SeqCst);
        assert_eq!(speaker(rpc, &payload), Some(self.me), "{rpc:?}: every call is its caller's own word");
        tokio::time::sleep(Duration::from_millis(1)).await;
        self.net.open(self.me, to)?;
        let node = self.net.nodes.lock().unwrap().get(&to).cloned();
        let node = node.ok_or_else(|| WireError::Unreachable("down".to_owned()))?;
        let answer = node.serve(rpc, &payload).await.map_err(|error| WireError::NoAnswer(error.to_string()))?;
        tokio::time::sleep(Duration::from_millis(1)).await;
        self.net.open(to, self.me)?;
        Ok(answer)
    }
}

/// A cluster.
pub(super) struct Lab {
    pub(super) net: Arc<Net>,
    pub(super) clock: Arc<LabClock>,
    kvs: BTreeMap<MemberId, MemoryKv>,
    random: ChaCha8Rng,
    holds: bool,
}

pub(super) const ONE: MemberId = Found::FOUNDER;

impl Lab {
    pub(super) fn new(seed: u64, holds: bool) -> Self {
        Self {
            net: Arc::new(Net::default()),
            clock: Arc::new(LabClock(Instant::now())),
            kvs: BTreeMap::new(),
            random: ChaCha8Rng::seed_from_u64(seed),
            holds,
        }
    }

    /// A founded cluster of three, all of them voters, with the first as owner.
    pub(super) async fn three(seed: u64, holds: bool) -> (Self, [MemberId; 3]) {
        let mut lab = Self::new(seed, holds);
        lab.start(ONE).await;
        lab.node(ONE).found(BTreeSet::from([ONE])).await.unwrap();
        lab.until("a first leader", |lab| lab.node(ONE).status().is_leader).await;
        lab.propose_as(ONE, None, Command::Found(Box::new(founding()))).await.unwrap().unwrap();
        lab.claim(ONE).await;
        let two = lab.admit("r2", false).await;
        let three = lab.admit("r3", false).await;
        let all = [ONE, two, three];
        lab.node(ONE).change_voters(BTreeSet::from(all)).await.unwrap();
        lab.settled(&all).await;
        (lab, all)
    }

    /// What node `id` stands on.
    pub(super) fn ground(&mut self, id: MemberId) -> Ground {
        let kv = self.kvs.entry(id).or_default().clone();
        let random = LabRandom(Mutex::new(ChaCha8Rng::seed_from_u64(self.random.next_u64())));
        Ground {
            kv: Arc::new(kv),
            me: id,
            timing: Timing::STANDARD,
            wire: Arc::new(LabWire { me: id, net: self.net.clone() }),
            clock: self.clock.clone(),
            random: Arc::new(random),
        }
    }

    /// Starts `id`, or starts it again on what it has stored.
    pub(super) async fn start(&mut self, id: MemberId) {
        let ground = self.ground(id);
        let started = match self.holds {
            true => Consensus::open(ground).await,
            false => Consensus::open_without_vote_hold(ground).await,
        };
        self.net.nodes.lock().unwrap().insert(id, started.unwrap());
    }

    pub(super) async fn stop(&mut self, id: MemberId) {
        let node = self.net.nodes.lock().unwrap().remove(&id).unwrap();
        node.shutdown().await;
    }

    /// Cuts the power of `id`: what is not durable is gone.
    pub(super) async fn power_off(&mut self, id: MemberId) {
        self.kv(id).cut();
        // Nor does it write anything while it is taken down.
        self.kv(id).fail_sync_after(0);
        self.stop(id).await;
        self.kv(id).cut();
    }

    pub(super) fn node(&self, id: MemberId) -> Consensus {
        self.net.nodes.lock().unwrap().get(&id).cloned().unwrap()
    }

    pub(super) fn kv(&self, id: MemberId) -> &MemoryKv {
        &self.kvs[&id]
    }

    /// Cuts `id` off from everybody, or joins it again.
    pub(super) fn isolate(&self, id: MemberId, cut: bool) {
        for other in self.kvs.keys().filter(|other| **other != id) {
            for direction in [(id, *other), (*other, id)] {
                let mut cuts = self.net.cut.lock().unwrap();
                if cut {
                    cuts.insert(direction)
                } else {
                    cuts.remove(&direction)
                };
            }
        }
    }

    /// Waits, at most a virtual minute, until `condition` holds.
    pub(super) async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        for _ in 0..6000 {
            if condition(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let nodes = self.net.nodes.lock().unwrap();
        let all: Vec<_> = nodes.iter().map(|(id, node)| format!("{id}: {:?}", node.status())).collect();
        panic!("no {what} within a minute:\n{}", all.join("\n"));
    }

    /// Waits until some node of `among` leads and confirms it, and returns it.
    pub(super) async fn leader(&self, among: &[MemberId]) -> MemberId {
        for _ in 0..600 {
            for id in among {
                let node = self.node(*id);
                if node.status().is_leader
                    && matches!(tokio::time::timeout(Duration::from_secs(1), node.linearizable()).await, Ok(Ok(_)))
                {
                    return *id;
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("no leader within a minute");
    }

    /// Waits until all of `among` have applied the same.
    pub(super) async fn settled(&self, among: &[MemberId]) {
        let leader = self.leader(among).await;
        self.until("agreement", |lab| {
            let last = lab.node(leader).status().last_log;
            among.iter().all(|id| {
                lab.node(*id).status().applied == last
                    && lab.node(*id).status().voters.len() == lab.node(leader).status().voters.len()
            })
        })
        .await;
    }

    pub(super) async fn propose_as(
        &self,
        at: MemberId,
        term: Option<Term>,
        command: Command,
    ) -> Result<Answer, ProposeError> {
        let proposal = Proposal { request: None, at: self.clock.wall(), term, command };
        self.node(at).propose(proposal).await.map(|applied| applied.answer)
    }

    pub(super) async fn claim(&self, id: MemberId) -> Term {
        match self.propose_as(id, None, Command::Claim(id)).await {
            Ok(Ok(Outcome::Claimed { term, .. })) => term,
            other => panic!("claim: {other:?}"),
        }
    }

    /// Proposes at `id` under the term that it knows.
    pub(super) async fn propose(&self, id: MemberId, command: Command) -> Outcome {
        let term = self.node(id).state().term();
        self.propose_as(id, term, command).await.unwrap().unwrap()
    }

    /// Sets a setting through `id`.
    pub(super) async fn set(&self, id: MemberId, value: u64) {
        let changes = BTreeMap::from([("maximum_active_transfers".to_owned(), Some(value.to_string()))]);
        self.propose(id, Command::Set { changes, expect: None, by: "test".to_owned() }).await;
    }

    /// Admits a node by a token, starts it and lets it follow.
    pub(super) async fn admit(&mut self, name: &str, witness: bool) -> MemberId {
        let number = self.kvs.len() as u8 + 1;
        let expires_at = UnixMillis(self.clock.wall().0 + 3_600_000);
        let kind = TicketKind::Join { witness, replaces: None };
        let ticket = Ticket { id: number.into(), secret: [0; 32], kind, expires_at, used_by: None };
        let leader = self.leader(&self.kvs.keys().copied().collect::<Vec<_>>()).await;
        self.propose(leader, Command::AddTicket(ticket)).await;
        let node: NodeName = name.parse().unwrap();
        let join = Command::Join {
            ticket: number.into(),
            key: Fingerprint([number; 32]),
            fqdn: founding().cap.sibling(&node),
            node,
            control: format!("10.0.0.{number}:7443").parse().unwrap(),
            data: format!("10.0.0.{number}:7444").parse().unwrap(),
        };
        let Outcome::Joined(id) = self.propose(leader, join).await else { panic!("not joined") };
        self.start(id).await;
        self.node(leader).add_learner(id).await.unwrap();
        id
    }
}
