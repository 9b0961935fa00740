//! What makes this node a member: its key, its certificate, what the cluster was founded with, and the CA's key.
//!
//! All of it lives in small files of the data folder, each written durably. The key is made once and never leaves the
//! node; the CA's key is on the data nodes that may issue, never on a witness and never in the log.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use landfall_proto::authority::Authority;
use landfall_proto::certificate::NodeKey;
use landfall_proto::id::{Fqdn, MemberId, NodeName};
use landfall_proto::message::join::Welcome;
use landfall_proto::model::{Found, MemberList};
use landfall_proto::seam::Random;
use landfall_proto::{Class, Refusal, codec};
use landfall_store::files::{Files, SECRET};
use serde::{Deserialize, Serialize};

use crate::seams::Storage;

/// The node's private key, PKCS #8.
const KEY_FILE: &str = "node.key";
/// What it was enrolled with.
const ENROLMENT_FILE: &str = "enrolment";
/// The members as last applied.
const MEMBERS_FILE: &str = "members";
/// The CA's private key, PKCS #8, where this node may issue.
const CA_KEY_FILE: &str = "ca.key";

/// Everything that a node has as a member, in the order in which it is set aside: without the first it is none.
const MEMBERSHIP: [&str; 6] = [ENROLMENT_FILE, MEMBERS_FILE, CA_KEY_FILE, KEY_FILE, STORE_FOLDER, SENDERS_FOLDER];

/// The folder of the consensus store in the data folder.
pub const STORE_FOLDER: &str = "store";

/// The folder of what senders keep, in the data folder.
pub const SENDERS_FOLDER: &str = "senders";

/// A node that belongs to a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolment {
    /// Its name, so that a data folder is not used by another node's file.
    pub node: NodeName,
    /// Its name in its certificate.
    pub fqdn: Fqdn,
    /// Its id.
    pub member: MemberId,
    /// Its certificate, DER.
    pub certificate: Vec<u8>,
    /// What `cluster init` recorded.
    pub found: Found,
    /// The members when it joined: whom to ask first.
    pub members: MemberList,
}

/// The files of a node's identity.
#[derive(Clone)]
pub struct Papers {
    files: Arc<dyn Files>,
}

impl Papers {
    /// The papers kept in `files`.
    pub fn new(files: Arc<dyn Files>) -> Self {
        Self { files }
    }

    /// This node's key, made at the first call.
    pub fn key(&self, random: &dyn Random) -> Result<NodeKey, Refusal> {
        if let Some(bytes) = self.read(KEY_FILE)? {
            return NodeKey::from_pkcs8(&bytes).map_err(|error| unreadable(KEY_FILE, &error));
        }
        let key = NodeKey::generate(random)?;
        self.write(KEY_FILE, key.pkcs8())?;
        Ok(key)
    }

    /// The enrolment, where there is one; refused where it is another node's.
    pub fn enrolment(&self, node: &NodeName) -> Result<Option<Enrolment>, Refusal> {
        let read = self.read(ENROLMENT_FILE)?;
        let Some(bytes) = read else { return Ok(None) };
        let enrolment: Enrolment = codec::decode(&bytes).map_err(|error| unreadable(ENROLMENT_FILE, &error))?;
        if enrolment.node != *node {
            let message = format!("the data folder belongs to node '{}', not to '{node}'", enrolment.node);
            return Err(Refusal::new(Class::Refused, "foreign_data_folder", message)
                .field("data_dir")
                .remedy("give each node a data_dir of its own, or set node back to its old name"));
        }
        Ok(Some(enrolment))
    }

    /// Keeps an enrolment, and with it the CA's key where this node may issue. The key is written first: an enrolment
    /// without it could never issue, a key without an enrolment is ignored.
    pub fn enrol(&self, enrolment: &Enrolment, ca_key: Option<&[u8]>) -> Result<(), Refusal> {
        if let Some(ca_key) = ca_key {
            self.write(CA_KEY_FILE, ca_key)?;
        }
        let bytes = codec::encode(enrolment).map_err(|error| unreadable(ENROLMENT_FILE, &error))?;
        self.write(ENROLMENT_FILE, &bytes)
    }

    /// The CA, where this node may issue.
    pub fn authority(&self, found: &Found) -> Result<Option<Authority>, Refusal> {
        let read = self.read(CA_KEY_FILE)?;
        read.map(|key| Authority::from_parts(&key, &found.ca).map_err(|error| unreadable(CA_KEY_FILE, &error)))
            .transpose()
    }

    /// The members as last applied: whom to ask after a restart, before the log says it again.
    pub fn members(&self) -> Result<Option<MemberList>, Refusal> {
        let read = self.read(MEMBERS_FILE)?;
        read.map(|bytes| codec::decode(&bytes).map_err(|error| unreadable(MEMBERS_FILE, &error))).transpose()
    }

    /// Keeps the members as they are now.
    pub fn remember(&self, members: &MemberList) -> Result<(), Refusal> {
        let bytes = codec::encode(members).map_err(|error| unreadable(MEMBERS_FILE, &error))?;
        self.write(MEMBERS_FILE, &bytes)
    }

    /// Sets everything aside that the node of `folder` has as a member. A node that joins again makes a new key.
    pub fn set_aside(storage: &dyn Storage, folder: &Path, aside: &str) -> Result<PathBuf, Refusal> {
        storage.set_aside(folder, &MEMBERSHIP, aside)
    }

    /// Sets aside what a departure has left in `folder` that broke off: a node without an enrolment is no member, whatever
    /// else is there.
    pub fn clear(storage: &dyn Storage, folder: &Path, aside: &str) -> Result<(), Refusal> {
        storage.set_aside(folder, &[MEMBERS_FILE, STORE_FOLDER, SENDERS_FOLDER], aside).map(drop)
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Refusal> {
        self.files.read(name).map_err(|error| unreadable(name, &error))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Refusal> {
        self.files.write(name, bytes, SECRET).map_err(|error| {
            Refusal::new(Class::Failed, "data_folder", format!("{name} could not be written: {error}"))
                .field("data_dir")
                .remedy("free room on that file system, or mend it, and try again")
        })
    }
}

impl Enrolment {
    /// The enrolment that a [`Welcome`] makes.
    pub fn of(node: NodeName, fqdn: Fqdn, welcome: Welcome) -> Self {
        let Welcome { member, certificate, found, members, ca_key: _ } = welcome;
        Self { node, fqdn, member, certificate, found, members }
    }
}

fn unreadable(name: &str, error: &dyn std::fmt::Display) -> Refusal {
    Refusal::new(Class::Failed, "data_folder", format!("{name} in the data folder cannot be read: {error}"))
        .field("data_dir")
        .remedy(
            "nothing was changed; set the folder aside (mv data_dir data_dir.aside) and join again \
             (landfall token create --replaces NODE at another node, then landfall cluster join TOKEN here)",
        )
}
