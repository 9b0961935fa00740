//! Which primaries may replicate into this cluster.

use landfall_proto::id::{PrimaryPattern, StorageName, TrustGroup};
use landfall_proto::model::AuthorizationEntry;
use serde::{Deserialize, Serialize};

use crate::surface::vm::NamedVm;

/// An entry of the authorization table: a row of `authorization list`, and what `authorization add` takes and answers.
///
/// The primary is its key: adding one that exists replaces it. New replicas are stored at `storage`; replicas that exist
/// stay where they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Authorization {
    /// The primary's CAP or FQDN, or `*` as the whole first label.
    pub primary: PrimaryPattern,
    /// Where its replicas are stored, by the storage location's name.
    pub storage: StorageName,
    /// The trust group: a replica takes data from entries of the same group as the one it was created under.
    pub trust_group: TrustGroup,
}

/// The trust group of an entry that names none, as Hyper-V's console calls it.
pub const DEFAULT_TRUST_GROUP: &str = "DEFAULT";

impl From<AuthorizationEntry> for Authorization {
    fn from(AuthorizationEntry { primary, storage, trust_group }: AuthorizationEntry) -> Self {
        Self { primary, storage, trust_group }
    }
}

impl From<Authorization> for AuthorizationEntry {
    fn from(Authorization { primary, storage, trust_group }: Authorization) -> Self {
        Self { primary, storage, trust_group }
    }
}

/// The answer of `authorization remove`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorizationRemoved {
    /// The entry that is gone.
    pub primary: PrimaryPattern,
    /// The VMs that lived under it: their replication stopped.
    pub stopped: Vec<NamedVm>,
}
