//! The cluster's CAs: a new one takes the present one's place step by step, and a peer's are followed by its old one's word.
//!
//! While a rotation lasts both CAs count. It ends by a commit, once every member has a certificate of the new one and every
//! peer has committed it; after [`ROTATION_MOST`], or at an operator's word, also without those that have not.

use std::collections::BTreeSet;
use std::time::Duration;

use landfall_proto::authority::ca_fingerprint;
use landfall_proto::certificate::LEAF_LIFE;
use landfall_proto::id::{Fingerprint, Fqdn, MemberId, Position, UnixMillis};
use landfall_proto::model::{Answer, CaLine, Outcome, Peer, Succession};
use landfall_proto::succession::{self, CHAIN_MAX, SUCCESSION_CERTIFICATE, Unfit};
use landfall_proto::{Class, Refusal};
use serde::{Deserialize, Serialize};

use super::{Entry, State};

/// How long a rotation waits for members and peers: past the life of a certificate whoever has not followed could not take
/// part any more anyway.
pub const ROTATION_MOST: Duration = LEAF_LIFE;

/// A new CA that is taking the old one's place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// When it began, by the owner's clock.
    pub begun_at: UnixMillis,
    /// Members with a certificate of the new CA.
    pub renewed: BTreeSet<MemberId>,
    /// Peers that have committed the new CA.
    pub followed: BTreeSet<Fqdn>,
}

/// The cluster's own CAs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaState {
    /// How they followed each other.
    pub line: CaLine,
    /// The rotation that is under way.
    pub rotation: Option<Rotation>,
}

fn no_rotation() -> Refusal {
    Refusal::new(Class::Refused, "no_rotation", "no rotation of the CA is under way, or it is about another one")
        .field("ca")
        .remedy("see `landfall cluster status`; `landfall cluster rotate-ca` begins one")
}

fn unfit(cap: &Fqdn, unfit: &Unfit) -> Refusal {
    Refusal::new(Class::Refused, "ca_not_followed", format!("the CA that {cap} names as its own is not taken: {unfit}"))
        .field("ca")
        .remedy(format!(
            "where {cap} was made anew, or has rotated its CA more than {CHAIN_MAX} times since it was last heard: run \
             `landfall peer remove` for it, then pair again (`landfall peer invite`, `landfall peer accept`)"
        ))
}

fn check_sizes(line: &CaLine) -> Result<(), Refusal> {
    let most = line.all().chain(line.after.iter().map(|step| step.warrant.as_slice())).map(<[u8]>::len).max();
    match most {
        Some(1..=SUCCESSION_CERTIFICATE) if line.after.len() <= CHAIN_MAX => Ok(()),
        most => {
            let value = format!("{} certificates, of {} bytes at most", 1 + line.after.len(), most.unwrap_or(0));
            Err(Refusal::invalid("ca", &value, "a line has 1 to 5 CAs, each a certificate in DER of at most 1 KiB"))
        }
    }
}

impl State {
    /// A new CA begins to take the present one's place, by that one's word.
    pub(super) fn rotate_ca(&mut self, entry: Entry, step: &Succession) -> Answer {
        if let Some(refusal) = self.rotation_under_way() {
            return Err(refusal);
        }
        let cap = self.cap().cloned().ok_or_else(no_rotation)?;
        let line = &self.ca.line;
        let at = succession::verify(line.newest(), step, &cap, entry.at).map_err(|why| unfit(&cap, &why))?;
        if at.incarnation() != self.incarnation || at < line.changed {
            let why = Unfit::Stale { told: at, known: line.changed };
            return Err(unfit(&cap, &why));
        }
        let mut line = line.clone();
        line.after.push(step.clone());
        if line.after.len() > CHAIN_MAX {
            line.first = line.after.remove(0).ca;
        }
        (line.rotating, line.changed) = (true, entry.position);
        check_sizes(&line)?;
        let known = self.peers.values().find(|peer| peer.line.all().any(|ca| ca == step.ca));
        if let Some(peer) = known {
            return Err(ca_in_use(&cap, peer));
        }
        let rotation = Rotation { begun_at: entry.at, renewed: BTreeSet::new(), followed: BTreeSet::new() };
        self.ca = CaState { line, rotation: Some(rotation) };
        Ok(Outcome::Done)
    }

    fn rotation_to(&mut self, ca: &Fingerprint) -> Result<&mut Rotation, Refusal> {
        let newest = ca_fingerprint(self.ca.line.newest());
        self.ca.rotation.as_mut().filter(|_| newest == *ca).ok_or_else(no_rotation)
    }

    /// A member has a certificate of the new CA.
    pub(super) fn renewed(&mut self, member: MemberId, ca: &Fingerprint) -> Answer {
        self.require_member(member)?;
        self.rotation_to(ca)?.renewed.insert(member);
        Ok(Outcome::Done)
    }

    /// A peer has committed the new CA.
    pub(super) fn followed(&mut self, cap: &Fqdn, ca: &Fingerprint) -> Answer {
        if !self.peers.contains(cap) {
            return Err(Refusal::not_found("peer", cap.as_str()));
        }
        self.rotation_to(ca)?.followed.insert(cap.clone());
        Ok(Outcome::Done)
    }

    /// The members and the peers that have not followed to the new CA, where a rotation is under way.
    pub fn waits_for(&self) -> Option<(Vec<MemberId>, Vec<Fqdn>)> {
        let rotation = self.ca.rotation.as_ref()?;
        let members = self.members.keys().filter(|member| !rotation.renewed.contains(member)).copied().collect();
        let peers = self.peers.keys().filter(|cap| !rotation.followed.contains(cap)).cloned().collect();
        Some((members, peers))
    }

    /// Their names, nodes first; none where no rotation is under way.
    pub fn names_waited_for(&self) -> Vec<String> {
        let (members, peers) = self.waits_for().unwrap_or_default();
        let nodes = members.iter().filter_map(|id| self.members.get(id)).map(|member| member.node.to_string());
        nodes.chain(peers.iter().map(ToString::to_string)).collect()
    }

    /// Whether a rotation is under way that the peer has not followed.
    pub fn waits_for_peer(&self, cap: &Fqdn) -> bool {
        self.ca.rotation.as_ref().is_some_and(|rotation| !rotation.followed.contains(cap))
    }

    /// What refuses another rotation while one is under way.
    pub fn rotation_under_way(&self) -> Option<Refusal> {
        self.ca.rotation.as_ref()?;
        let message = format!("a rotation to the CA {} is under way", ca_fingerprint(self.ca.line.newest()));
        Some(Refusal::new(Class::Refused, "rotation_under_way", message).field("ca").remedy(
            "see `landfall cluster status` for what it waits for; `landfall cluster rotate-ca --finish` ends it without \
             those",
        ))
    }

    /// The new CA alone counts from now on.
    pub(super) fn retire_ca(&mut self, entry: Entry, ca: &Fingerprint, give_up: bool) -> Answer {
        let begun_at = self.rotation_to(ca)?.begun_at;
        let (members, peers) = self.waits_for().ok_or_else(no_rotation)?;
        if 2 * members.len() >= self.members.len() {
            let message = "fewer than half of the members have a certificate of the new CA";
            return Err(Refusal::new(Class::Refused, "too_few_renewed", message)
                .field("ca")
                .remedy("the others would be shut out: start their agents, and look at `landfall cluster status`"));
        }
        let over =
            entry.at.0 >= begun_at.0.saturating_add(u64::try_from(ROTATION_MOST.as_millis()).unwrap_or(u64::MAX));
        let complete = members.is_empty() && peers.is_empty();
        if !(complete || over || give_up) {
            let message = format!("{} have not followed to the new CA yet", self.names_waited_for().join(", "));
            return Err(Refusal::new(Class::Refused, "not_followed", message).field("ca").remedy(
                "start their agents; or give them up: `landfall cluster rotate-ca --finish`, after which such a node joins \
                 again with a token, and a peer follows once it is reached",
            ));
        }
        self.ca.rotation = None;
        (self.ca.line.rotating, self.ca.line.changed) = (false, entry.position);
        Ok(Outcome::Done)
    }

    /// What a peer says of its CAs, which the one that is pinned has to vouch for.
    pub(super) fn follow(&mut self, entry: Entry, cap: &Fqdn, line: &CaLine) -> Answer {
        let peer = self.peers.get(cap).ok_or_else(|| Refusal::not_found("peer", cap.as_str()))?;
        // Two of its nodes tell the same.
        if peer.line == *line {
            return Ok(Outcome::Done);
        }
        check_sizes(line)?;
        succession::check(&peer.line, line, cap, entry.at).map_err(|why| unfit(cap, &why))?;
        self.check_unused(cap, line)?;
        if let Some(peer) = self.peers.edit(cap) {
            peer.line = line.clone();
        }
        Ok(Outcome::Done)
    }

    /// Refuses a line of `cap` with a CA that vouches for another name.
    pub(super) fn check_unused(&self, cap: &Fqdn, line: &CaLine) -> Result<(), Refusal> {
        let taken =
            |peer: &&Peer| peer.list.cap != *cap && peer.line.all().any(|known| line.all().any(|ca| ca == known));
        match self.peers.values().find(taken) {
            Some(other) => Err(ca_in_use(cap, other)),
            None if self.ca.line.all().any(|known| line.all().any(|ca| ca == known)) => {
                Err(Refusal::new(Class::Refused, "same_cluster", format!("{cap} names a CA of this cluster"))
                    .field("ca"))
            }
            None => Ok(()),
        }
    }

    /// The line of a peer that is paired, perhaps once more: what a code proves is that an operator wants the pairing, not
    /// that a known name may have another CA.
    pub(super) fn paired_line(&self, entry: Entry, peer: &Peer) -> Result<CaLine, Refusal> {
        let (cap, line) = (&peer.list.cap, &peer.line);
        check_sizes(line)?;
        self.check_unused(cap, line)?;
        let Some(known) = self.peers.get(cap) else {
            let steps = line.all().zip(&line.after);
            let good = steps.map(|(before, step)| succession::verify(before, step, cap, entry.at));
            good.collect::<Result<Vec<Position>, Unfit>>().map_err(|why| unfit(cap, &why))?;
            return Ok(line.clone());
        };
        if line.changed <= known.line.changed {
            return Ok(known.line.clone());
        }
        succession::check(&known.line, line, cap, entry.at).map_err(|why| unfit(cap, &why))?;
        Ok(line.clone())
    }

    /// In the cluster's next life a rotation goes on where the survivor has what it needs for it. Else it never was: the
    /// survivor has the old CA's key, and may lack the new one's.
    pub(super) fn keep_ca(&mut self, now: Position, survivor: MemberId) {
        self.ca.line.changed = now;
        let Some(rotation) = &mut self.ca.rotation else { return };
        if rotation.renewed.contains(&survivor) {
            rotation.renewed = BTreeSet::from([survivor]);
        } else {
            self.ca.rotation = None;
            self.ca.line.after.pop();
            self.ca.line.rotating = false;
        }
    }
}

fn ca_in_use(cap: &Fqdn, other: &Peer) -> Refusal {
    let message = format!("the CA of {cap} is pinned to {}", other.list.cap);
    Refusal::new(Class::Refused, "ca_in_use", message)
        .field("ca")
        .remedy(format!("if that cluster has a new name, run `landfall peer remove {}` first", other.list.cap))
}
