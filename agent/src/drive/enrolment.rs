//! What makes this node a member: its key, its certificate, what the cluster was founded with, and the CA's key.
//!
//! All of it lives in small files of the data folder, each written durably. The key is made once and never leaves the
//! node; the CA's key is on the data nodes that may issue, never on a witness and never in the log.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use landfall_proto::authority::Authority;
use landfall_proto::certificate::NodeKey;
use landfall_proto::id::{Fqdn, MemberId, NodeName};
use landfall_proto::message::control::CaKey;
use landfall_proto::message::join::Welcome;
use landfall_proto::model::{CaLine, Found, MemberList};
use landfall_proto::seam::Random;
use landfall_proto::{Class, Refusal, codec};
use landfall_store::files::{Files, SECRET};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::seams::Storage;

/// The node's private key, PKCS #8.
const KEY_FILE: &str = "node.key";
/// What it was enrolled with.
const ENROLMENT_FILE: &str = "enrolment";
/// The members as last applied.
const MEMBERS_FILE: &str = "members";
/// The CA's private key, PKCS #8, where this node may issue.
const CA_KEY_FILE: &str = "ca.key";

/// The private key of the CA that is to follow, or follows, while the CA is rotated.
const NEXT_CA_KEY_FILE: &str = "ca.next.key";

/// Everything that a node has as a member, in the order in which it is set aside: without the first it is none.
const MEMBERSHIP: [&str; 7] =
    [ENROLMENT_FILE, MEMBERS_FILE, CA_KEY_FILE, NEXT_CA_KEY_FILE, KEY_FILE, STORE_FOLDER, SENDERS_FOLDER];

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
    /// The cluster's CAs as this node last knew them.
    pub line: CaLine,
}

/// The files of a node's identity.
#[derive(Clone)]
pub struct Papers {
    files: Arc<dyn Files>,
    rotating: Arc<Mutex<()>>,
}

impl Papers {
    /// The papers kept in `files`.
    pub fn new(files: Arc<dyn Files>) -> Self {
        Self { files, rotating: Arc::default() }
    }

    /// Held while this node makes a new CA.
    pub fn rotating(&self) -> &Mutex<()> {
        &self.rotating
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

    /// Keeps an enrolment, and with it the keys of the CAs that count where this node may issue. Keys are written first: an
    /// enrolment without them could never issue, a key without an enrolment is ignored.
    pub fn enrol(&self, enrolment: &Enrolment, ca_keys: &[CaKey]) -> Result<(), Refusal> {
        self.take_keys(ca_keys)?;
        let bytes = codec::encode(enrolment).map_err(|error| unreadable(ENROLMENT_FILE, &error))?;
        self.write(ENROLMENT_FILE, &bytes)
    }

    /// Keeps the keys of the CAs that count, oldest first; none changes nothing.
    pub fn take_keys(&self, ca_keys: &[CaKey]) -> Result<(), Refusal> {
        [CA_KEY_FILE, NEXT_CA_KEY_FILE].into_iter().zip(ca_keys).try_for_each(|(name, key)| self.write(name, &key.0))
    }

    /// Keeps the key of the CA that is to follow.
    pub fn keep_next(&self, key: &CaKey) -> Result<(), Refusal> {
        self.write(NEXT_CA_KEY_FILE, &key.0)
    }

    /// Where the key that was kept for the next CA is that of the present one by now, `present` (DER), makes it the CA's key
    /// and forgets the one before. Another key may be kept for the next one only after that.
    pub fn promote_next(&self, present: &[u8]) -> Result<(), Refusal> {
        let Some(key) = self.read(NEXT_CA_KEY_FILE)?.filter(|key| Authority::from_parts(key, present).is_ok()) else {
            return Ok(());
        };
        self.write(CA_KEY_FILE, &key)?;
        self.files.remove(NEXT_CA_KEY_FILE).map(drop).map_err(|error| unreadable(NEXT_CA_KEY_FILE, &error))
    }

    /// The CA with the certificate `ca`, DER, where this node has its key.
    pub fn authority(&self, ca: &[u8]) -> Result<Option<Authority>, Refusal> {
        for name in [CA_KEY_FILE, NEXT_CA_KEY_FILE] {
            let Some(key) = self.read(name)? else { continue };
            NodeKey::from_pkcs8(&key).map_err(|error| unreadable(name, &error))?;
            if let Ok(authority) = Authority::from_parts(&key, ca) {
                return Ok(Some(authority));
            }
        }
        Ok(None)
    }

    /// The keys of the CAs of `line` that count, oldest first, as far as this node has them.
    pub fn keys(&self, line: &CaLine) -> Result<Vec<CaKey>, Refusal> {
        let authorities = line.trusted().into_iter().map(|ca| self.authority(&ca)).collect::<Result<Vec<_>, _>>()?;
        Ok(authorities.into_iter().flatten().map(|authority| CaKey(authority.pkcs8().to_vec())).collect())
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
        let Welcome { member, certificate, found, members, line, ca_keys: _ } = welcome;
        Self { node, fqdn, member, certificate, found, members, line }
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

#[cfg(test)]
mod tests {
    use landfall_proto::id::Position;
    use landfall_proto::machine::{MachineClock, SeededRandom};
    use landfall_store::files::MemoryFiles;

    use super::*;

    fn ca(seed: u64) -> Authority {
        Authority::found(&"r-cap.contoso.com".parse().unwrap(), &SeededRandom::new(seed), &MachineClock).unwrap()
    }

    fn key(ca: &Authority) -> CaKey {
        CaKey(ca.pkcs8().to_vec())
    }

    #[test]
    fn the_keys_of_both_cas_are_kept_while_one_follows_the_other() {
        let papers = Papers::new(Arc::new(MemoryFiles::default()));
        let (first, next, third) = (ca(1), ca(2), ca(3));
        let has = |ca: &Authority| papers.authority(ca.certificate()).unwrap().is_some();
        papers.take_keys(&[key(&first)]).unwrap();
        papers.keep_next(&key(&next)).unwrap();
        papers.promote_next(first.certificate()).unwrap();
        assert!(has(&first) && has(&next), "both count");
        let random = SeededRandom::new(4);
        let step = first.warrant(&next, Position::default(), &random, &MachineClock).unwrap();
        let line = CaLine { after: vec![step], rotating: true, ..CaLine::of(first.certificate().to_vec()) };
        assert_eq!(papers.keys(&line).unwrap(), [key(&first), key(&next)]);
        // Retired; the next rotation begins before anything else was done here.
        papers.promote_next(next.certificate()).unwrap();
        papers.keep_next(&key(&third)).unwrap();
        assert!(!has(&first) && has(&next) && has(&third));
        papers.promote_next(next.certificate()).unwrap();
        assert!(has(&next) && has(&third), "it is not the present one yet");
    }
}
