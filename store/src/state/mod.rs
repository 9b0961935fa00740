//! The committed state of a cluster: what every agent has alike once it has applied the same log.
//!
//! [`State::apply`] is a plain function of the state and one entry: no clock, no randomness, no order but that of keys.
//! Every precondition is checked there and its result is the answer, so a refused command has changed nothing and two
//! nodes never differ. One file a noun. Copies are cheap, since tables share their rows.

mod archive;
mod authorization;
mod ca;
mod cluster;
mod farewell;
mod holder;
mod mark;
mod member;
mod network;
mod pause;
mod peer;
mod primary;
mod promotion;
mod recovery;
mod replica;
mod reversal;
mod right;
mod session;
mod setting;
mod table;
mod ticket;
mod vm;

use std::collections::BTreeSet;

use landfall_proto::id::{Fqdn, MemberId, NodeName, Position, PrimaryPattern, Revision, Term, UnixMillis, VmId};
use landfall_proto::model::{
    Addresses, Answer, AuthorizationEntry, CapAddress, Command, Departure, Found, LogMark, Member, MemberList, Outcome,
    Peer, Primary, Promotion, PromotionId, Proposal, Replica, Return, Rival, Subnet, TestRun, Ticket, Timing,
    UnknownRight,
};
use landfall_proto::planted::{self, Bug};
use landfall_proto::{Class, Refusal};

use crate::settings::{Settings, Values};
pub use archive::ArchiveError;
pub use authorization::Permit;
pub use ca::{CaState, ROTATION_MOST, Rotation};
pub use farewell::Farewell;
pub use pause::check_start;
pub use recovery::{GivenUp, Survivor};
pub use session::Session;
pub use setting::{SettingsChange, SettingsState};
pub use table::Table;

/// Who holds the CAP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Claim {
    /// The owner.
    pub member: MemberId,
    /// The position of its claim.
    pub term: Term,
    /// When it claimed, by its own clock; display only.
    pub since: UnixMillis,
}

/// The committed state as of one entry of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The last entry that this state contains.
    pub applied: Position,
    /// The cluster's life, counted from 0.
    pub incarnation: u16,
    /// What `cluster init` recorded.
    pub found: Option<Found>,
    /// Its CAs.
    pub ca: CaState,
    /// Who holds the CAP.
    pub claim: Option<Claim>,
    /// The members.
    pub members: Table<MemberId, Member>,
    /// The entry that last changed the members.
    pub members_changed: Position,
    /// Tickets that may still be valid, by their public part.
    pub tickets: Table<u64, Ticket>,
    /// The settings.
    pub settings: SettingsState,
    /// The authorization table.
    pub authorization: Table<PrimaryPattern, AuthorizationEntry>,
    /// Paired clusters, by CAP.
    pub peers: Table<Fqdn, Peer>,
    /// Replicas kept here.
    pub replicas: Table<VmId, Replica>,
    /// VMs of this cluster that are replicated elsewhere.
    pub primaries: Table<VmId, Primary>,
    /// Of VMs that are replicated no more, which clusters are to be told so.
    pub farewells: Table<(VmId, Fqdn), Farewell>,
    /// Client sessions, by their random id.
    pub sessions: Table<u128, Session>,
    /// Replicas that are failed over.
    pub promotions: Table<VmId, Promotion>,
    /// Test failovers.
    pub tests: Table<VmId, TestRun>,
    /// VMs of this cluster that are failed over as planned.
    pub departures: Table<VmId, Departure>,
    /// Of each VM and its primary's cluster the last hand-over that this cluster took or declined.
    pub hand_off_floors: Table<(VmId, Fqdn), Position>,
    /// What adapters have where this cluster brings their VM up, by VM and name.
    pub failover_addresses: Table<(VmId, String), Addresses>,
    /// Of each peer's subnets the one that stands for it here.
    pub network_rules: Table<(Fqdn, Subnet), Subnet>,
    /// The promotion under which the primary of a VM runs, here or at the other cluster; none as it was first enabled.
    pub lineages: Table<VmId, PromotionId>,
    /// VMs that ran here, are replicas now, and whose disks their holder takes in.
    pub returns: Table<VmId, Return>,
    /// Branches of VMs of this cluster that others run.
    pub rivals: Table<VmId, Rival>,
    /// Of each primary the last branches at the other cluster that were dropped for it, newest last.
    pub dropped: Table<VmId, Vec<PromotionId>>,
    /// Members that are drained: they get nothing new, and what they hold is moved away.
    pub drained: BTreeSet<MemberId>,
    /// Members for which an operator has vouched, and when last: what they did before counts no more.
    pub restored: Table<MemberId, Position>,
    /// How far each member's log had come, as an owner has noted it.
    pub marks: Table<MemberId, LogMark>,
    /// VMs of which this cluster does not know whether it has the right to run them, since it was recovered.
    pub unknown_rights: Table<VmId, UnknownRight>,
}

/// Where and when a command is applied.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) position: Position,
    pub(crate) at: UnixMillis,
}

impl State {
    /// Applies one entry and returns its answer. A refused one changes nothing but the session that it belongs to.
    pub fn apply(&mut self, position: Position, proposal: &Proposal) -> Answer {
        self.pass(position);
        if let Some(request) = proposal.request
            && let Some(answer) = self.answered(request, position)
        {
            return answer;
        }
        // Not remembered: the owner of the next term carries out the same request.
        self.check_term(proposal)?;
        if let Some(request) = proposal.request {
            self.check_session(request)?;
        }
        let answer = self.run(Entry { position, at: proposal.at }, &proposal.command);
        if let Some(request) = proposal.request {
            self.remember(request, position, &answer);
        }
        answer
    }

    /// Notes an entry that changes nothing here: a leader's blank one, or a change of voters.
    pub fn pass(&mut self, position: Position) {
        self.applied = position;
    }

    fn check_term(&self, proposal: &Proposal) -> Result<(), Refusal> {
        if matches!(proposal.command, Command::Found(_)) {
            return Ok(());
        }
        if self.found.is_none() {
            return Err(Refusal::new(Class::Refused, "not_founded", "this cluster has not been initialized"));
        }
        if matches!(proposal.command, Command::Claim(_)) {
            return Ok(());
        }
        let current = self.claim.map(|claim| claim.term);
        if current.is_some() && (proposal.term == current || planted::is(Bug::StaleTermAccepted)) {
            return Ok(());
        }
        let text = |term: Option<Term>| term.map_or("none".to_owned(), |term| term.to_string());
        let message = format!("proposed under term {}, the current one is {}", text(proposal.term), text(current));
        Err(Refusal::new(Class::Failed, "stale_term", message).field("term").remedy("ask the present owner"))
    }

    fn run(&mut self, entry: Entry, command: &Command) -> Answer {
        match command {
            Command::Found(found) => self.found_cluster(entry, found),
            Command::Claim(member) => self.claim_cap(entry, *member),
            Command::Probe => Ok(Outcome::Done),
            Command::AddTicket(ticket) => self.add_ticket(entry, ticket),
            Command::RevokeTicket(id) => self.revoke_ticket(*id),
            Command::Join { ticket, key, node, fqdn, control, data } => {
                let newcomer = member::Newcomer { key: *key, node, fqdn, control: *control, data: *data };
                self.join(entry, *ticket, &newcomer)
            }
            Command::Readdress { member, control, data } => self.readdress(entry, *member, *control, *data),
            Command::Remove(member) => self.remove_member(entry, *member),
            Command::Set { changes, expect, by } => self.set(entry, changes, *expect, by),
            Command::Authorize(row) => self.authorize(row),
            Command::Deauthorize(pattern) => self.deauthorize(pattern),
            Command::Pair { peer, ticket } => self.pair(entry, peer, *ticket),
            Command::Relist(list) => self.relist(entry, list),
            Command::Unpair(cap) => self.unpair(cap),
            Command::Place { vm, primary, holder, frequency, recovery_points, instead_of, lineage } => {
                let (frequency, recovery_points, lineage) = (*frequency, *recovery_points, *lineage);
                let wish = replica::Wish { vm, primary, frequency, recovery_points, lineage };
                self.place(entry, &wish, *holder, *instead_of)
            }
            Command::Respecify { vm, primary } => self.respecify(vm, primary),
            Command::Copy { vm, epoch, to } => self.copy(entry, *vm, *epoch, *to),
            Command::Admit { vm, epoch, member, begun } => self.admit(*vm, *epoch, *member, *begun),
            Command::Leave { vm, epoch, member } => self.leave(*vm, *epoch, *member),
            Command::Acknowledged { vm, epoch } => self.acknowledged(*vm, *epoch),
            Command::Handover { vm, epoch, to } => self.handover(entry, *vm, *epoch, *to),
            Command::Assign { vm, epoch, to } => self.assign(entry, *vm, *epoch, *to),
            Command::Seed { vm, epoch, to } => self.seed(entry, *vm, *epoch, *to),
            Command::Seeded { vm, epoch } => self.seeded(*vm, *epoch),
            Command::RemoveReplica { vm, primary } => self.remove_replica(*vm, primary.as_ref()),
            Command::Enable { vm, to, frequency, recovery_points, starts_at, limit, excluded } => {
                let (frequency, recovery_points, starts_at) = (*frequency, *recovery_points, *starts_at);
                let limit = limit.as_ref();
                self.enable(entry, to, primary::Wish { vm, frequency, recovery_points, starts_at, limit, excluded })
            }
            Command::Adjust { vm, frequency, recovery_points, limit } => {
                self.adjust(*vm, *frequency, *recovery_points, limit.as_ref())
            }
            Command::Disable(vm) => self.disable(entry, *vm),
            Command::Reshape(vm) => self.reshape(vm),
            Command::ClaimSender { vm, member, epoch, down } => self.claim_sender(entry, *vm, *member, *epoch, *down),
            Command::ReleaseSender { vm, member } => self.release_sender(*vm, *member),
            Command::Pause(vm) => self.pause(entry, *vm),
            Command::Resume(vm) => self.resume(*vm),
            Command::Resync(vm) => self.resync(entry, *vm),
            Command::Failover { vm, step } => self.failover(entry, *vm, step),
            Command::Network(change) => self.change_network(change),
            Command::Yield(member) => self.yield_cap(*member),
            Command::Drain { member, on } => self.drain(entry, *member, *on),
            Command::Mark(marks) => Ok(self.mark(marks)),
            Command::RotateCa(step) => self.rotate_ca(entry, step),
            Command::Renewed { member, ca } => self.renewed(*member, ca),
            Command::Followed { cap, ca } => self.followed(cap, ca),
            Command::RetireCa { ca, give_up } => self.retire_ca(entry, ca, *give_up),
            Command::Follow { cap, line } => self.follow(entry, cap, line),
            Command::HalfEnded { vm, cap, at } => self.half_ended(*vm, cap, *at),
        }
    }

    /// The cluster's consensus clocks, once it is founded.
    pub fn timing(&self) -> Option<Timing> {
        self.found.as_ref().map(|found| found.timing)
    }

    /// The name of the CAP, once it is founded.
    pub fn cap(&self) -> Option<&Fqdn> {
        self.found.as_ref().map(|found| &found.cap)
    }

    /// The current term.
    pub fn term(&self) -> Option<Term> {
        self.claim.map(|claim| claim.term)
    }

    /// The revision at which the settings stand.
    pub fn revision(&self) -> Revision {
        self.settings.revision
    }

    /// The settings, resolved.
    pub fn resolved_settings(&self) -> Settings {
        Settings::resolve(&self.settings.values)
    }

    /// The committed values of the settings.
    pub fn settings_values(&self) -> &Values {
        &self.settings.values
    }

    /// The member called `node`.
    pub fn member_named(&self, node: &NodeName) -> Option<&Member> {
        self.members.values().find(|member| member.node == *node)
    }

    /// The member list as other clusters are sent it; `None` before the cluster is founded.
    pub fn member_list(&self) -> Option<MemberList> {
        let found = self.found.as_ref()?;
        Some(MemberList {
            cap: found.cap.clone(),
            position: self.members_changed,
            members: self.members.values().cloned().collect(),
            cap_addresses: found.cap_address.iter().flat_map(CapAddress::sockets).collect(),
        })
    }

    /// Refuses with `code` when `count` has reached `limit`.
    fn room(count: usize, limit: usize, what: &str) -> Result<(), Refusal> {
        if count < limit || planted::is(Bug::TableUnbounded) {
            return Ok(());
        }
        let message = format!("there are {count} {what}, the most that a cluster keeps");
        Err(Refusal::new(Class::Failed, "too_many", message).remedy(format!("remove {what} that are not needed")))
    }
}

#[cfg(test)]
mod ca_tests;
#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod promotion_tests;
#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod replica_tests;
#[cfg(test)]
mod reversal_tests;
#[cfg(test)]
mod right_tests;
#[cfg(test)]
mod sibling_tests;
#[cfg(test)]
mod tests;
