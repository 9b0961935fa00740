//! The authorization table, and which relationships stand without authorization or peer.
//!
//! An exact name goes before a wildcard, a longer wildcard before a shorter. While any server is allowed the table is
//! not asked: trust group `DEFAULT`, default storage location.

use landfall_proto::id::{Fqdn, PrimaryPattern, StorageName, TrustGroup, VmId};
use landfall_proto::model::{Answer, AuthorizationEntry, Outcome, Replica, Stop};
use landfall_proto::{Class, Refusal};

use super::State;
use crate::limits;

/// The trust group of replicas while any server is allowed.
const ANY_SERVER_GROUP: &str = "DEFAULT";

/// What a primary is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit {
    /// Where its new replicas are stored.
    pub storage: StorageName,
    /// The trust group of its replicas.
    pub trust_group: TrustGroup,
}

impl State {
    /// What `primary` is allowed, or why nothing. The broker's probe and every placement ask this.
    pub fn permit(&self, primary: &Fqdn) -> Result<Permit, Refusal> {
        let settings = self.resolved_settings();
        if !settings.replication_enabled {
            return Err(Refusal::new(Class::Refused, "replication_disabled", "this cluster accepts no replicas")
                .field("replication_enabled")
                .remedy("run `landfall settings set replication_enabled=true` on the replica's cluster"));
        }
        if !self.peers.contains(primary) {
            let message = format!("{primary} is not a paired cluster");
            return Err(Refusal::new(Class::Refused, "unknown_peer", message)
                .field("primary")
                .remedy("pair the clusters: `landfall peer invite` on one, `landfall peer accept CODE` on the other"));
        }
        if settings.allowed_from_any_server
            && let Some(storage) = settings.default_storage_location
        {
            return Ok(Permit { storage, trust_group: ANY_SERVER_GROUP.parse()? });
        }
        match self.entry_of(primary) {
            Some(entry) => Ok(Permit { storage: entry.storage.clone(), trust_group: entry.trust_group.clone() }),
            None => {
                let message = format!("{primary} is not authorized to replicate to this cluster");
                Err(Refusal::new(Class::Refused, "unauthorized_primary", message).field("primary").remedy(format!(
                    "run `landfall authorization add {primary} --storage NAME` on the replica's cluster"
                )))
            }
        }
    }

    /// The row that decides for `primary`.
    fn entry_of(&self, primary: &Fqdn) -> Option<&AuthorizationEntry> {
        let matching = self.authorization.values().filter(|entry| entry.primary.matches(primary));
        matching.max_by_key(|entry| (entry.primary.is_exact(), entry.primary.as_str().len()))
    }

    pub(super) fn authorize(&mut self, entry: &AuthorizationEntry) -> Answer {
        if self.resolved_settings().allowed_from_any_server {
            let message = "every paired cluster is allowed, so the authorization table takes no entries";
            return Err(Refusal::new(Class::Refused, "any_server_allowed", message)
                .field("allowed_from_any_server")
                .remedy("run `landfall settings set allowed_from_any_server=false` first"));
        }
        if !self.authorization.contains(&entry.primary) {
            Self::room(self.authorization.len(), limits::AUTHORIZATION_ENTRIES, "authorization entries")?;
        }
        self.authorization.put(entry.primary.clone(), entry.clone());
        // An entry that replaced one of another trust group can stop replicas, too.
        let stopped = self.settle_stops();
        Ok(if stopped.is_empty() { Outcome::Done } else { Outcome::Stopped(stopped) })
    }

    pub(super) fn deauthorize(&mut self, pattern: &PrimaryPattern) -> Answer {
        if self.authorization.take(pattern).is_none() {
            return Err(Refusal::not_found("authorization entry", pattern.as_str())
                .field("primary")
                .remedy("`landfall authorization list` shows the entries, as they must be named"));
        }
        Ok(Outcome::Stopped(self.settle_stops()))
    }

    /// Brings every stop in line with peers, entries and settings; returns the first of the VMs that this stopped.
    pub(super) fn settle_stops(&mut self) -> Vec<VmId> {
        let any = self.resolved_settings().allowed_from_any_server;
        let mut stopped = Vec::new();
        let replicas: Vec<(VmId, Option<Stop>)> = self
            .replicas
            .iter()
            .map(|(vm, replica)| (*vm, self.replica_stop(replica, any)))
            .filter(|(vm, stop)| self.replicas.get(vm).is_some_and(|replica| replica.stopped != *stop))
            .collect();
        for (vm, stop) in replicas {
            if let Some(replica) = self.replicas.edit(&vm) {
                if replica.stopped.is_none() {
                    stopped.push(vm);
                }
                replica.stopped = stop;
            }
        }
        let peerless = |to: &Fqdn| (!self.peers.contains(to)).then_some(Stop::PeerRemoved);
        let primaries: Vec<(VmId, Option<Stop>)> = self
            .primaries
            .iter()
            .map(|(vm, primary)| (*vm, peerless(&primary.to)))
            .filter(|(vm, stop)| self.primaries.get(vm).is_some_and(|primary| primary.stopped != *stop))
            .collect();
        for (vm, stop) in primaries {
            if let Some(primary) = self.primaries.edit(&vm) {
                if primary.stopped.is_none() {
                    stopped.push(vm);
                }
                primary.stopped = stop;
            }
        }
        stopped.truncate(limits::STOPPED_LISTED);
        stopped
    }

    /// Brings the stop of one replica in line.
    pub(super) fn settle_stop(&mut self, vm: VmId) {
        let any = self.resolved_settings().allowed_from_any_server;
        let Some(stop) = self.replicas.get(&vm).map(|replica| self.replica_stop(replica, any)) else { return };
        if let Some(replica) = self.replicas.edit(&vm) {
            replica.stopped = stop;
        }
    }

    fn replica_stop(&self, replica: &Replica, any: bool) -> Option<Stop> {
        let entries = || self.authorization.values();
        let trusted = |entry: &AuthorizationEntry| {
            entry.trust_group == replica.trust_group && entry.primary.matches(&replica.primary)
        };
        if !self.peers.contains(&replica.primary) {
            Some(Stop::PeerRemoved)
        } else if any || entries().any(trusted) {
            None
        } else {
            Some(Stop::AuthorizationRemoved)
        }
    }
}
