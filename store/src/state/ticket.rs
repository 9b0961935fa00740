//! Join tokens and pairing codes: who may use one, once.

use landfall_proto::id::{Fingerprint, UnixMillis};
use landfall_proto::model::{Answer, Outcome, Ticket, TicketKind};
use landfall_proto::planted::{self, Bug};
use landfall_proto::{Class, Refusal};

use super::{Entry, State};
use crate::limits;

/// What the commands that take tickets want of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Join,
    Pair,
}

impl State {
    pub(super) fn add_ticket(&mut self, entry: Entry, ticket: &Ticket) -> Answer {
        if ticket.expires_at <= entry.at {
            return Err(Refusal::invalid("ttl", "0", "give a time to live such as 1h"));
        }
        if ticket.used_by.is_some() {
            return Err(Refusal::new(Class::Usage, "invalid_value", "a new ticket is unused").field("used_by"));
        }
        if let TicketKind::Join { replaces: Some(node), .. } = &ticket.kind
            && self.member_named(node).is_none()
        {
            return Err(Refusal::not_found("node", node.as_str())
                .remedy("a token without --replaces admits a node with a new name"));
        }
        let live = self.tickets.values().filter(|kept| kept.expires_at > entry.at);
        Self::room(live.count(), limits::TICKETS, "tickets")?;
        if self.tickets.get(&ticket.id).is_some_and(|kept| kept.expires_at > entry.at) {
            return Err(Refusal::new(Class::Failed, "ticket_exists", "a ticket with this number exists"));
        }
        self.purge_tickets(entry.at);
        self.tickets.put(ticket.id, ticket.clone());
        Ok(Outcome::Done)
    }

    pub(super) fn revoke_ticket(&mut self, id: u64) -> Answer {
        match self.tickets.take(&id) {
            Some(_) => Ok(Outcome::Done),
            None => Err(Refusal::not_found("ticket", &id.to_string())),
        }
    }

    /// Forgets tickets that nobody can use any more.
    pub(super) fn purge_tickets(&mut self, at: UnixMillis) {
        let gone: Vec<u64> =
            self.tickets.iter().filter(|(_, ticket)| ticket.expires_at <= at).map(|(id, _)| *id).collect();
        for id in gone {
            self.tickets.take(&id);
        }
    }

    /// The ticket `id`, provided that `key` may use it for `purpose` now.
    pub(super) fn usable_ticket(
        &self,
        entry: Entry,
        id: u64,
        key: &Fingerprint,
        purpose: Purpose,
    ) -> Result<&Ticket, Refusal> {
        let refuse = |code, message: &str| {
            Refusal::new(Class::Refused, code, message).field("token").remedy(match purpose {
                Purpose::Join => "make a new one with `landfall token create`",
                Purpose::Pair => "make a new one with `landfall peer invite`",
            })
        };
        let known = self.tickets.get(&id).filter(|ticket| match purpose {
            Purpose::Join => matches!(ticket.kind, TicketKind::Join { .. }),
            Purpose::Pair => ticket.kind == TicketKind::Pair,
        });
        let ticket =
            known.ok_or_else(|| refuse("unknown_ticket", "this token is not known: used, revoked or expired"))?;
        if ticket.expires_at <= entry.at {
            return Err(refuse("ticket_expired", "this token has expired"));
        }
        if ticket.used_by.is_some_and(|user| user != *key) && !planted::is(Bug::TokenTakesSecondKey) {
            return Err(refuse("ticket_used", "this token has been used"));
        }
        Ok(ticket)
    }

    pub(super) fn use_ticket(&mut self, id: u64, key: Fingerprint) {
        if let Some(ticket) = self.tickets.edit(&id) {
            ticket.used_by = Some(key);
        }
    }
}
