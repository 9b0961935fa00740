//! Paired clusters: one CA is pinned to one CAP name and one name to one CA, and a member list never goes back.

use landfall_proto::id::{Fingerprint, Fqdn, VmId};
use landfall_proto::model::{Answer, CapAddress, MemberList, Outcome, Peer};
use landfall_proto::planted::{self, Bug};
use landfall_proto::{Class, Refusal};

use super::ticket::Purpose;
use super::{Entry, State};
use crate::limits;

fn check_list(list: &MemberList) -> Result<(), Refusal> {
    let mut ids: Vec<_> = list.members.iter().map(|member| member.id).collect();
    ids.sort();
    ids.dedup();
    if list.members.is_empty() || list.members.len() > limits::MEMBERS || ids.len() != list.members.len() {
        let value = format!("{} members", list.members.len());
        return Err(Refusal::invalid("members", &value, "a list names each of its 1 to 64 members once"));
    }
    if list.cap_addresses.len() > CapAddress::MAX {
        let value = format!("{} addresses", list.cap_addresses.len());
        return Err(Refusal::invalid("cap_addresses", &value, "a CAP has one address of each family at most"));
    }
    Ok(())
}

impl State {
    /// Pairs with a cluster; the same pairing again only takes over a newer member list.
    pub(super) fn pair(&mut self, entry: Entry, peer: &Peer, ticket: Option<(u64, Fingerprint)>) -> Answer {
        if let Some((id, key)) = &ticket {
            self.usable_ticket(entry, *id, key, Purpose::Pair)?;
        }
        let cap = &peer.list.cap;
        check_list(&peer.list)?;
        if peer.ca.is_empty() || peer.ca.len() > limits::CA_CERTIFICATE {
            return Err(Refusal::invalid("ca", &format!("{} bytes", peer.ca.len()), "give a certificate in DER"));
        }
        if self.found.as_ref().is_some_and(|own| own.cap == *cap || own.ca == peer.ca) {
            let message = format!("{cap} is this cluster itself");
            return Err(Refusal::new(Class::Refused, "same_cluster", message).field("peer"));
        }
        if let Some(other) = self.peers.values().find(|other| other.ca == peer.ca && other.list.cap != *cap) {
            let message = format!("the CA of {cap} is pinned to {}", other.list.cap);
            return Err(Refusal::new(Class::Refused, "ca_in_use", message).field("ca").remedy(format!(
                "if that cluster has a new name, run `landfall peer remove {}` first",
                other.list.cap
            )));
        }
        if self.peers.get(cap).is_some_and(|known| known.ca != peer.ca) {
            let message = format!("{cap} is pinned to another CA");
            return Err(Refusal::new(Class::Refused, "cap_in_use", message)
                .field("peer")
                .remedy(format!("if that cluster was made anew, run `landfall peer remove {cap}` first")));
        }
        let mut kept = Peer { confirmed_at: entry.at, line: self.paired_line(entry, peer)?, ..peer.clone() };
        match self.peers.get(cap) {
            Some(known) if known.list.position >= peer.list.position => kept.list = known.list.clone(),
            Some(_) => {}
            None => Self::room(self.peers.len(), limits::PEERS, "peers")?,
        }
        self.peers.put(cap.clone(), kept);
        if let Some((id, key)) = ticket {
            self.use_ticket(id, key);
        }
        self.settle_stops();
        Ok(Outcome::Done)
    }

    /// Takes over a peer's member list, never an older one.
    pub(super) fn relist(&mut self, entry: Entry, list: &MemberList) -> Answer {
        let known = self.peers.get(&list.cap).ok_or_else(|| Refusal::not_found("peer", list.cap.as_str()))?;
        check_list(list)?;
        let stands = known.list.position;
        let older = list.position < stands && !planted::is(Bug::PeerListGoesBack);
        if older || (list.position == stands && *list != known.list) {
            let message = format!("the list of {} at {} does not follow the one at {stands}", list.cap, list.position);
            return Err(Refusal::new(Class::Refused, "stale_list", message).field("position"));
        }
        if let Some(peer) = self.peers.edit(&list.cap) {
            peer.list = list.clone();
            peer.confirmed_at = entry.at;
        }
        Ok(Outcome::Done)
    }

    /// Forgets a peer and stops what is replicated from and to it.
    pub(super) fn unpair(&mut self, cap: &Fqdn) -> Answer {
        if self.peers.take(cap).is_none() {
            return Err(Refusal::not_found("peer", cap.as_str()));
        }
        self.forget_farewells(cap);
        let stopped: Vec<VmId> = self.settle_stops();
        Ok(Outcome::Stopped(stopped))
    }
}
