//! The founding of a cluster, and who holds its CAP.

use std::net::SocketAddr;

use landfall_proto::id::{MemberId, Term};
use landfall_proto::model::{Answer, CaLine, CapAddress, Found, Outcome};
use landfall_proto::planted::{self, Bug};
use landfall_proto::{Class, Refusal};

use super::{Claim, Entry, State};
use crate::limits;

/// Refuses what a node announces as its own where that is the CAP's address: it would be without one whenever another
/// node owns the CAP.
pub(super) fn check_own(cap: Option<&CapAddress>, control: SocketAddr, data: SocketAddr) -> Result<(), Refusal> {
    let taken = |(_, own): &(&str, SocketAddr)| cap.is_some_and(|cap| cap.has(&own.ip()));
    match [("advertise", control), ("data_advertise", data)].into_iter().find(taken) {
        None => Ok(()),
        Some((field, own)) => Err(Refusal::invalid(
            field,
            &own.to_string(),
            "that is the CAP's address, which moves with its owner: announce an address of the node's own",
        )),
    }
}

impl State {
    /// The first command of a cluster; the same one again changes nothing.
    pub(super) fn found_cluster(&mut self, entry: Entry, found: &Found) -> Answer {
        if let Some(present) = &self.found {
            if present == found {
                return Ok(Outcome::Done);
            }
            let message = format!("this agent already belongs to cluster {}", present.cluster);
            return Err(Refusal::new(Class::Refused, "already_founded", message)
                .remedy("use another data_dir to make another cluster"));
        }
        if found.founder.id != Found::FOUNDER || found.founder.witness {
            let message = format!("a cluster is founded by member {}, which is no witness", Found::FOUNDER);
            return Err(Refusal::new(Class::Usage, "wrong_founder", message).field("founder"));
        }
        if found.ca.is_empty() || found.ca.len() > limits::CA_CERTIFICATE {
            return Err(Refusal::invalid("ca", &format!("{} bytes", found.ca.len()), "give a certificate in DER"));
        }
        let timing = found.timing;
        let ordered = 0 < timing.heartbeat_ms
            && timing.heartbeat_ms < timing.election_min_ms
            && timing.election_min_ms < timing.election_max_ms;
        if !ordered {
            let value = format!("{}/{}/{}", timing.heartbeat_ms, timing.election_min_ms, timing.election_max_ms);
            return Err(Refusal::invalid("timing", &value, "heartbeat, shortest and longest election must rise"));
        }
        check_own(found.cap_address.as_ref(), found.founder.control, found.founder.data)?;
        self.members.put(found.founder.id, found.founder.clone());
        self.members_changed = entry.position;
        self.ca.line = CaLine::of(found.ca.clone());
        self.found = Some(found.clone());
        Ok(Outcome::Done)
    }

    /// A leader takes the CAP: the entry's position is the new term, and every proposal of an older one is refused.
    pub(super) fn claim_cap(&mut self, entry: Entry, member: MemberId) -> Answer {
        let claimer = self.require_member(member)?;
        if claimer.witness && !planted::is(Bug::WitnessClaims) {
            let message = format!("{} is a witness, which never owns the CAP", claimer.node);
            return Err(Refusal::new(Class::Refused, "witness", message).field("member"));
        }
        let term = Term(entry.position);
        let vacant = self.claim.is_none() || planted::is(Bug::AlwaysVacant);
        self.claim = Some(Claim { member, term, since: entry.at });
        Ok(Outcome::Claimed { term, vacant })
    }

    /// The owner gives the CAP up. From this entry on no term is the current one, so that whatever was proposed under the
    /// old one and comes later is refused, wherever it comes from.
    pub(super) fn yield_cap(&mut self, member: MemberId) -> Answer {
        match self.claim {
            Some(claim) if claim.member == member => {
                self.claim = None;
                Ok(Outcome::Done)
            }
            _ => {
                let message = format!("member {member} does not own the CAP");
                Err(Refusal::new(Class::Refused, "not_owner", message).field("member"))
            }
        }
    }
}
