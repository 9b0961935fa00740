//! The state as bytes: what a snapshot is. One row a table row, so that no row outgrows the codec however large the
//! state is, and equal states give equal bytes.

use landfall_proto::id::{Fqdn, MemberId, Position, Revision, VmId};
use landfall_proto::model::{
    Addresses, Answer, AuthorizationEntry, Departure, Found, LogMark, Member, NetworkRule, Peer, Primary, Promotion,
    PromotionId, Replica, Return, Rival, TestRun, Ticket, UnknownRight,
};
use serde::{Deserialize, Serialize};

use super::{CaState, Claim, Farewell, SettingsChange, State};
use crate::rows::{RowError, RowReader, RowWriter};

/// The layout of the rows. Another one is refused.
const VERSION: u32 = 1;

/// Why bytes are not a state.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// They were written by another version.
    #[error("snapshot format {0} is not known, only {VERSION}")]
    Version(u32),
    /// They are damaged, or a row cannot be written.
    #[error("snapshot: {0}")]
    Rows(String),
}

impl From<RowError> for ArchiveError {
    fn from(error: RowError) -> Self {
        Self::Rows(error.to_string())
    }
}

/// What stands once.
#[derive(Serialize, Deserialize)]
struct Head {
    applied: Position,
    incarnation: u16,
    found: Option<Found>,
    ca: CaState,
    claim: Option<Claim>,
    members_changed: Position,
    revision: Revision,
    floor: Revision,
}

/// What stands many times.
#[derive(Serialize, Deserialize)]
enum Row {
    Member(Box<Member>),
    Ticket(Box<Ticket>),
    Value(String, String),
    Change(Box<SettingsChange>),
    Authorization(Box<AuthorizationEntry>),
    Peer(Box<Peer>),
    Replica(Box<Replica>),
    Primary(Box<Primary>),
    Session { id: u128, forgotten: u64, used: Position },
    Answer { session: u128, sequence: u64, answer: Box<Answer> },
    Promotion(VmId, Box<Promotion>),
    Test(VmId, Box<TestRun>),
    Departure(VmId, Box<Departure>),
    Floor(VmId, Fqdn, Position),
    FailoverAddresses(VmId, String, Box<Addresses>),
    NetworkRule(Box<NetworkRule>),
    Lineage(VmId, PromotionId),
    Return(VmId, Return),
    Rival(VmId, Box<Rival>),
    Dropped(VmId, Vec<PromotionId>),
    Drained(MemberId),
    UnknownRight(VmId, UnknownRight),
    Mark(MemberId, LogMark),
    Restored(MemberId, Position),
    Farewell(VmId, Fqdn, Farewell),
}

impl State {
    /// The bytes of this state; equal states have equal bytes.
    pub fn archive(&self) -> Result<Vec<u8>, ArchiveError> {
        let mut rows = RowWriter::default();
        rows.push(&VERSION)?;
        rows.push(&Head {
            applied: self.applied,
            incarnation: self.incarnation,
            found: self.found.clone(),
            ca: self.ca.clone(),
            claim: self.claim,
            members_changed: self.members_changed,
            revision: self.settings.revision,
            floor: self.settings.floor,
        })?;
        for row in self.rows() {
            rows.push(&row)?;
        }
        Ok(rows.finish())
    }

    fn rows(&self) -> impl Iterator<Item = Row> {
        let members = self.members.values().map(|row| Row::Member(Box::new(row.clone())));
        let tickets = self.tickets.values().map(|row| Row::Ticket(Box::new(row.clone())));
        let values = self.settings.values.iter().map(|(key, value)| Row::Value(key.clone(), value.clone()));
        let changes = self.settings.history.iter().map(|row| Row::Change(Box::new(row.clone())));
        let entries = self.authorization.values().map(|row| Row::Authorization(Box::new(row.clone())));
        let peers = self.peers.values().map(|row| Row::Peer(Box::new(row.clone())));
        let replicas = self.replicas.values().map(|row| Row::Replica(Box::new(row.clone())));
        let primaries = self.primaries.values().map(|row| Row::Primary(Box::new(row.clone())));
        let sessions = self.sessions.iter().flat_map(|(id, session)| {
            let answers = session.answers.iter().map(|(sequence, answer)| Row::Answer {
                session: *id,
                sequence: *sequence,
                answer: Box::new(answer.clone()),
            });
            let head = Row::Session { id: *id, forgotten: session.forgotten, used: session.used };
            std::iter::once(head).chain(answers)
        });
        let farewells = self.farewells.iter().map(|((vm, cap), row)| Row::Farewell(*vm, cap.clone(), row.clone()));
        let drained = self.drained.iter().map(|member| Row::Drained(*member));
        let restored = self.restored.iter().map(|(member, at)| Row::Restored(*member, *at));
        let marks = self.marks.iter().map(|(member, mark)| Row::Mark(*member, *mark));
        let cluster = members
            .chain(drained)
            .chain(marks)
            .chain(restored)
            .chain(tickets)
            .chain(values)
            .chain(changes)
            .chain(entries)
            .chain(peers);
        let promotions = self.promotions.iter().map(|(vm, row)| Row::Promotion(*vm, Box::new(row.clone())));
        let tests = self.tests.iter().map(|(vm, row)| Row::Test(*vm, Box::new(row.clone())));
        let departures = self.departures.iter().map(|(vm, row)| Row::Departure(*vm, Box::new(row.clone())));
        let floors = self.hand_off_floors.iter().map(|((vm, from), at)| Row::Floor(*vm, from.clone(), *at));
        let lineages = self.lineages.iter().map(|(vm, id)| Row::Lineage(*vm, *id));
        let returns = self.returns.iter().map(|(vm, back)| Row::Return(*vm, *back));
        let rivals = self.rivals.iter().map(|(vm, row)| Row::Rival(*vm, Box::new(row.clone())));
        let dropped = self.dropped.iter().map(|(vm, ids)| Row::Dropped(*vm, ids.clone()));
        let unknown = self.unknown_rights.iter().map(|(vm, mark)| Row::UnknownRight(*vm, *mark));
        let reversals = lineages.chain(returns).chain(rivals).chain(dropped).chain(unknown);
        let failovers = promotions.chain(tests).chain(departures).chain(floors).chain(reversals);
        let addresses = self.failover_addresses.iter();
        let addresses =
            addresses.map(|((vm, name), row)| Row::FailoverAddresses(*vm, name.clone(), Box::new(row.clone())));
        let rules = self.network_rules.iter().map(|((peer, from), to)| {
            Row::NetworkRule(Box::new(NetworkRule { peer: peer.clone(), from: *from, to: *to }))
        });
        let vms = replicas.chain(primaries).chain(farewells);
        cluster.chain(vms).chain(sessions).chain(failovers).chain(addresses).chain(rules)
    }

    /// The state that `bytes` are of.
    pub fn from_archive(bytes: &[u8]) -> Result<Self, ArchiveError> {
        let mut rows = RowReader::new(bytes);
        match rows.next::<u32>()? {
            VERSION => {}
            other => return Err(ArchiveError::Version(other)),
        }
        let head: Head = rows.next()?;
        let mut state = Self {
            applied: head.applied,
            incarnation: head.incarnation,
            found: head.found,
            ca: head.ca,
            claim: head.claim,
            members_changed: head.members_changed,
            ..Self::default()
        };
        state.settings.revision = head.revision;
        state.settings.floor = head.floor;
        while !rows.is_empty() {
            state.take_row(rows.next()?)?;
        }
        Ok(state)
    }

    fn take_row(&mut self, row: Row) -> Result<(), ArchiveError> {
        match row {
            Row::Member(row) => self.members.put(row.id, *row),
            Row::Ticket(row) => self.tickets.put(row.id, *row),
            Row::Value(key, value) => drop(self.settings.values.insert(key, value)),
            Row::Change(row) => self.settings.history.push_back(*row),
            Row::Authorization(row) => self.authorization.put(row.primary.clone(), *row),
            Row::Peer(row) => self.peers.put(row.list.cap.clone(), *row),
            Row::Replica(row) => self.replicas.put(row.vm.id, *row),
            Row::Primary(row) => self.primaries.put(row.vm.id, *row),
            Row::Promotion(vm, row) => self.promotions.put(vm, *row),
            Row::Test(vm, row) => self.tests.put(vm, *row),
            Row::Departure(vm, row) => self.departures.put(vm, *row),
            Row::Floor(vm, from, at) => self.hand_off_floors.put((vm, from), at),
            Row::FailoverAddresses(vm, name, row) => self.failover_addresses.put((vm, name), *row),
            Row::NetworkRule(row) => self.network_rules.put((row.peer, row.from), row.to),
            Row::Lineage(vm, id) => self.lineages.put(vm, id),
            Row::Return(vm, back) => self.returns.put(vm, back),
            Row::Dropped(vm, ids) => self.dropped.put(vm, ids),
            Row::Rival(vm, row) => self.rivals.put(vm, *row),
            Row::Drained(member) => drop(self.drained.insert(member)),
            Row::Restored(member, at) => self.restored.put(member, at),
            Row::Farewell(vm, cap, row) => self.farewells.put((vm, cap), row),
            Row::Mark(member, mark) => self.marks.put(member, mark),
            Row::UnknownRight(vm, mark) => self.unknown_rights.put(vm, mark),
            Row::Session { id, forgotten, used } => {
                self.sessions.put(id, super::Session { forgotten, used, ..Default::default() });
            }
            Row::Answer { session, sequence, answer } => {
                let session = self.sessions.edit(&session);
                let session = session.ok_or_else(|| ArchiveError::Rows("an answer has no session".to_owned()))?;
                session.answers.insert(sequence, *answer);
            }
        }
        Ok(())
    }
}
