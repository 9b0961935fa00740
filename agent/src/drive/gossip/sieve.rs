//! What of a member's gossip counts: only what it says of itself.
//!
//! chitchat believes any member about every other one, heartbeats included, so that one bad node could keep a dead one
//! alive, silence a live one for good (a heartbeat that no real one can follow), change what another says of itself, fill
//! memory with nodes that do not exist, or end the gossip of others with a message that trips an assertion. Here each node
//! is believed about itself alone, in its newest life, within bounds; of the others only those that this node has heard
//! itself stay in a message, without their heartbeats, for they tell what need not be told to its sender again. Whoever
//! cannot hear a node therefore takes it for silent, whatever third ones say, and the owner asks (R7).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chitchat::ChitchatId;
use landfall_proto::id::MemberId;
use landfall_proto::seam::Time;

use super::FACTS_KEY;
use super::facts::FACTS_MAX_BYTES;
use super::wire::{Known, Message, News, Step, Value};
use crate::decide::allowance::{Allowance, Quota};

/// Messages of one member: two rounds at once is what two busy nodes exchange, and a node that was stopped catches up.
const MESSAGES: Quota = Quota { at_once: 64, every: Duration::from_millis(25) };

/// Lives of one member: each stays in chitchat's memory until it is forgotten ([`super::GRACE`]), so that a member that
/// began anew all the time would fill it. A node that is started this often is heard after each start.
const LIVES: Quota = Quota { at_once: 16, every: Duration::from_secs(10) };

/// A life that has been silent for so long is over, and another may follow whatever its number: clocks go back.
const LIFE_OVER_AFTER: Duration = Duration::from_secs(15);

/// The highest heartbeat and version: one a microsecond for nine years. Nothing counts on from the end of the numbers.
const COUNT_MAX: u64 = 1 << 48;

/// Why a message of a member does not count at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// It is no message, or one beyond the bounds.
    Malformed,
    /// More messages than a node sends.
    TooMany,
    /// It is of another cluster.
    OtherCluster,
    /// It begins a new life more often than a node does.
    TooManyLives,
    /// A heartbeat, a version or a value beyond the bounds.
    Beyond,
}

impl Unfit {
    /// The reason in words.
    pub fn why(self) -> &'static str {
        match self {
            Self::Malformed => "the message is malformed or too large",
            Self::TooMany => "it sends more messages than gossip needs",
            Self::OtherCluster => "the message names another cluster",
            Self::TooManyLives => "it claims to be started again all the time",
            Self::Beyond => "it says more, or higher numbers, than a node can",
        }
    }
}

/// What is known of one member as a sender.
#[derive(Clone, Debug)]
struct Sender {
    life: Option<ChitchatId>,
    heard: Time,
    messages: Allowance,
    lives: Allowance,
}

/// Sorts what arrives, for this life of this node.
#[derive(Clone, Debug, Default)]
pub struct Sieve {
    own: Option<ChitchatId>,
    cluster: String,
    senders: BTreeMap<MemberId, Sender>,
}

impl Sieve {
    /// Begins anew as `own`, a node of `cluster`. Nobody has been heard yet.
    pub fn begin(&mut self, own: ChitchatId, cluster: String) {
        *self = Self { own: Some(own), cluster, senders: BTreeMap::new() };
    }

    /// What counts of the message `bytes` of `member`, which the member list has at `address`, as bytes for chitchat;
    /// nothing where this node does not take part yet.
    pub fn sift(
        &mut self,
        member: MemberId,
        address: std::net::SocketAddr,
        bytes: &[u8],
        now: Time,
    ) -> Result<Option<Vec<u8>>, Unfit> {
        let Some(own) = self.own.clone() else { return Ok(None) };
        let sender = self.senders.entry(member).or_insert_with(|| Sender {
            life: None,
            heard: now,
            messages: Allowance::full(MESSAGES, now),
            lives: Allowance::full(LIVES, now),
        });
        if !sender.messages.take(MESSAGES, now) {
            return Err(Unfit::TooMany);
        }
        let message = Message::read(bytes).ok_or(Unfit::Malformed)?;
        if message.step == Step::Syn && message.cluster != self.cluster {
            return Err(Unfit::OtherCluster);
        }
        let name = member.number().to_string();
        let is_sender = |id: &ChitchatId| *id.node_id == *name && id.gossip_advertise_addr == address;
        // The newest life that the message names is the one that speaks.
        let named = message.digest.iter().map(|known| &known.id).chain(message.news.iter().map(|news| &news.id));
        if let Some(life) = named.filter(|id| is_sender(id)).max_by_key(|id| id.generation_id) {
            sender.speaks_in(life, now)?;
        }
        let speaker = sender.life.clone();
        let digest = self.digest(&own, speaker.as_ref(), message.digest)?;
        let news = match message.news.into_iter().find(|news| Some(&news.id) == speaker.as_ref()) {
            Some(news) => own_words(news)?,
            None => Vec::new(),
        };
        Ok(Some(Message { step: message.step, digest, news, cluster: message.cluster }.write()))
    }

    /// Of each node one entry at most: the speaker's as it is, those of others to know what they need not be told.
    fn digest(&self, own: &ChitchatId, speaker: Option<&ChitchatId>, digest: Vec<Known>) -> Result<Vec<Known>, Unfit> {
        let heard: BTreeSet<&ChitchatId> = self.senders.values().filter_map(|sender| sender.life.as_ref()).collect();
        let mut kept: BTreeMap<ChitchatId, Known> = BTreeMap::new();
        for mut known in digest {
            if Some(&known.id) == speaker {
                if known.heartbeat > COUNT_MAX || known.version > COUNT_MAX || known.collected != 0 {
                    return Err(Unfit::Beyond);
                }
            } else if known.id == *own || heard.contains(&known.id) {
                known.heartbeat = 0;
            } else {
                continue;
            }
            kept.insert(known.id.clone(), known);
        }
        Ok(kept.into_values().collect())
    }

    /// The life in which `member` was heard last.
    pub fn life(&self, member: MemberId) -> Option<&ChitchatId> {
        self.senders.get(&member)?.life.as_ref()
    }

    /// How long ago `member` was heard; `None` where it never was.
    pub fn silent_for(&self, member: MemberId, now: Time) -> Option<Duration> {
        let sender = self.senders.get(&member).filter(|sender| sender.life.is_some())?;
        Some(now.since(sender.heard))
    }

    /// Forgets everybody but `members`.
    pub fn retain(&mut self, members: &BTreeSet<MemberId>) {
        self.senders.retain(|member, _| members.contains(member));
    }
}

impl Sender {
    fn speaks_in(&mut self, life: &ChitchatId, now: Time) -> Result<(), Unfit> {
        match &self.life {
            Some(known) if known == life => self.heard = now,
            // Late words of an earlier life: what counts in the message is what it says of the present one.
            Some(known) if known.generation_id > life.generation_id && now.since(self.heard) < LIFE_OVER_AFTER => {}
            _ => {
                if !self.lives.take(LIVES, now) {
                    return Err(Unfit::TooManyLives);
                }
                (self.life, self.heard) = (Some(life.clone()), now);
            }
        }
        Ok(())
    }
}

/// The one thing that a node says of itself, in its newest version.
fn own_words(news: News) -> Result<Vec<News>, Unfit> {
    let facts = news.values.into_iter().filter(|value| value.key == FACTS_KEY && value.status == 0);
    let Some(newest) = facts.max_by_key(|value: &Value| value.version) else { return Ok(Vec::new()) };
    // Versions begin with one; chitchat reads nothing else.
    if newest.version == 0 || newest.version > COUNT_MAX || news.collected != 0 || newest.text.len() > FACTS_MAX_BYTES {
        return Err(Unfit::Beyond);
    }
    Ok(vec![News { id: news.id, collected: 0, from: news.from, values: vec![newest] }])
}

#[cfg(test)]
#[path = "sieve_test.rs"]
mod tests;
