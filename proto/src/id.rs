//! Names and numbers that identify things, each a type of its own so that none can be taken for another.
//!
//! Every number that orders events of a cluster is a [`Position`]: the log index of the entry that made it, within an
//! incarnation of the cluster. Names are checked once, where they enter; a value of these types is always well formed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::refusal::Refusal;

/// A place in a cluster's history: (incarnation, log index), incarnation first, packed in one ordered integer.
///
/// In the first incarnation the number is the log index itself; a later incarnation is above every earlier one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position(u64);

/// Bits of a [`Position`] that hold the log index: 2^48 entries at 10,000 a second last nine hundred years.
const INDEX_BITS: u32 = 48;

impl Position {
    /// The position of log entry `index` in `incarnation`, which counts from 0.
    pub const fn new(incarnation: u16, index: u64) -> Self {
        Self(((incarnation as u64) << INDEX_BITS) | (index & ((1 << INDEX_BITS) - 1)))
    }

    /// The position whose packed form is `number`.
    pub const fn from_number(number: u64) -> Self {
        Self(number)
    }

    /// The packed form: what JSON shows.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The life of the cluster this belongs to; `cluster recover` starts the next.
    pub const fn incarnation(self) -> u16 {
        (self.0 >> INDEX_BITS) as u16
    }

    /// The log index within the incarnation.
    pub const fn index(self) -> u64 {
        self.0 & ((1 << INDEX_BITS) - 1)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.incarnation() {
            0 => write!(f, "{}", self.index()),
            life => write!(f, "{life}.{}", self.index()),
        }
    }
}

macro_rules! positions {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Position);

        impl $name {
            /// The packed integer, as JSON shows it.
            pub const fn number(self) -> u64 { self.0.number() }
            /// The value whose packed integer is `number`.
            pub const fn from_number(number: u64) -> Self { Self(Position::from_number(number)) }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { self.0.fmt(f) }
        }
    )*};
}

positions! {
    /// A member of a cluster: the log index of the entry that added it. Never used again.
    MemberId;
    /// The position of the committed claim of the CAP: the fencing token of every effect of an owner.
    Term;
    /// The position of the entry that last changed the settings.
    Revision;
    /// The position, in the replica's cluster, at which the present holder of a replica was assigned.
    Epoch;
    /// The position, in the primary's cluster, at which the sending node claimed the VM.
    SenderEpoch;
}

/// A virtual machine; its name is only data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VmId(pub Uuid);

impl fmt::Display for VmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for VmId {
    type Err = Refusal;
    fn from_str(text: &str) -> Result<Self, Refusal> {
        Uuid::parse_str(text)
            .map(Self)
            .map_err(|_| Refusal::invalid("uuid", text, "give a UUID such as 6f1c2a52-0b0f-4c6e-9f2e-3a51d0a1c001"))
    }
}

/// BLAKE3 of a certificate's SubjectPublicKeyInfo: which key a node has, whatever its certificate says.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(pub [u8; 32]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({}..)", data_encoding::HEXLOWER.encode(&self.0[..4]))
    }
}

/// BLAKE3 of content: a disk, or the ordered disks of a recovery point.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Root(pub [u8; 32]);

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Root({}..)", data_encoding::HEXLOWER.encode(&self.0[..4]))
    }
}

/// One request of one client: the session is random and belongs to the client's life, the sequence only rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId {
    /// The client, for as long as its process lives.
    pub session: u128,
    /// Its request, counted from 1.
    pub sequence: u64,
}

/// Milliseconds since 1970 UTC: what a command carries as its time, and what people are shown. Orders nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixMillis(pub u64);

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident, $field:literal, $check:expr, $remedy:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text, as it was given (names of hosts in lower case).
            pub fn as_str(&self) -> &str { &self.0 }
        }

        impl FromStr for $name {
            type Err = Refusal;
            fn from_str(text: &str) -> Result<Self, Refusal> {
                let check: fn(&str) -> Option<String> = $check;
                check(text).map(Self).ok_or_else(|| Refusal::invalid($field, text, $remedy))
            }
        }

        impl TryFrom<String> for $name {
            type Error = Refusal;
            fn try_from(text: String) -> Result<Self, Refusal> { text.parse() }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self { name.0 }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) }
        }
    )*};
}

names! {
    /// A node's short name, unique in its cluster: one DNS label.
    NodeName, "node", label,
    "use 1 to 63 letters, digits and hyphens, beginning and ending with a letter or digit";
    /// A fully qualified domain name: of a node, or of a cluster's client access point (RFC 1123, at least two labels).
    Fqdn, "name", fqdn,
    "use a fully qualified name such as r-broker-cap.contoso.com";
    /// An allowed primary: a name, or `*` as the whole first label (`*.contoso.com`), or `*` alone for any server.
    PrimaryPattern, "primary", pattern,
    "use a fully qualified name, or * as the whole first label (*.contoso.com)";
    /// A storage location: the name of a `[[storage]]` of the nodes' files, never a path.
    StorageName, "storage", word,
    "name a [[storage]] of the nodes' files: 1 to 64 letters, digits, dots, hyphens and underscores, no leading dot";
    /// A trust group: a replica accepts data only from primaries whose entry has the same one.
    TrustGroup, "trust_group", word,
    "use 1 to 64 letters, digits, dots, hyphens and underscores, no leading dot";
    /// A cluster's display name.
    ClusterName, "name", word,
    "use 1 to 64 letters, digits, dots, hyphens and underscores, no leading dot";
    /// A disk within its VM, such as `vda`.
    DiskTarget, "disk.target", word,
    "use 1 to 64 letters, digits, dots, hyphens and underscores, no leading dot";
    /// A network interface of a machine, as the kernel takes it.
    InterfaceName, "cap_interface", interface,
    "use the name of a network interface as `ip link` shows it: 1 to 15 characters without spaces, slashes and colons";
    /// A VM's name as people know it: data only, never part of a path.
    VmName, "name", vm_name,
    "use 1 to 100 characters without control characters or slashes, other than '.' and '..'";
}

/// The longest VM name in characters: Hyper-V's own bound.
const VM_NAME_MAX: usize = 100;

fn label(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let inner = |b: &u8| b.is_ascii_alphanumeric() || *b == b'-';
    let outer = |b: &u8| b.is_ascii_alphanumeric();
    let ok = (1..=63).contains(&bytes.len())
        && bytes.iter().all(inner)
        && outer(&bytes[0])
        && outer(&bytes[bytes.len() - 1]);
    ok.then(|| text.to_ascii_lowercase())
}

fn fqdn(text: &str) -> Option<String> {
    let ok = text.len() <= 253 && text.split('.').count() >= 2 && text.split('.').all(|part| label(part).is_some());
    ok.then(|| text.to_ascii_lowercase())
}

fn pattern(text: &str) -> Option<String> {
    if text == "*" {
        return Some(text.to_owned());
    }
    match text.strip_prefix("*.") {
        Some(rest) => {
            (rest.split('.').all(|part| label(part).is_some()) && rest.len() <= 251).then(|| text.to_ascii_lowercase())
        }
        None => fqdn(text),
    }
}

fn word(text: &str) -> Option<String> {
    let ok = (1..=64).contains(&text.len())
        && !text.starts_with('.')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    ok.then(|| text.to_owned())
}

/// The kernel's own rule (`dev_valid_name`): it fits 16 bytes with its end, and stands for one folder of sysfs.
fn interface(text: &str) -> Option<String> {
    let ok = (1..=15).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b':')
        && text != "."
        && text != "..";
    ok.then(|| text.to_owned())
}

fn vm_name(text: &str) -> Option<String> {
    let length = text.chars().count();
    let ok = (1..=VM_NAME_MAX).contains(&length)
        && !text.chars().any(|c| c.is_control() || c == '/' || c == '\\')
        && text != "."
        && text != "..";
    ok.then(|| text.to_owned())
}

impl Fqdn {
    /// The name of `node` in this name's domain: `r1` beside `r-broker-cap.contoso.com` is `r1.contoso.com`.
    pub fn sibling(&self, node: &NodeName) -> Self {
        let domain = self.0.split_once('.').map_or("", |(_, domain)| domain);
        Self(format!("{node}.{domain}"))
    }
}

impl PrimaryPattern {
    /// The pattern that any server matches.
    pub fn any() -> Self {
        Self("*".to_owned())
    }

    /// Whether this names exactly one server.
    pub fn is_exact(&self) -> bool {
        !self.0.starts_with('*')
    }

    /// Whether `name` is allowed by this pattern; the star stands for exactly one label.
    pub fn matches(&self, name: &Fqdn) -> bool {
        match self.0.strip_prefix("*.") {
            Some(rest) => name.0.split_once('.').is_some_and(|(_, domain)| domain == rest),
            None => self.0 == "*" || self.0 == name.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_incarnation_is_above_every_index_of_an_earlier_one() {
        assert!(Position::new(1, 1) > Position::new(0, u64::MAX >> 20));
        assert_eq!(Position::new(0, 7).number(), 7);
        assert_eq!((Position::new(3, 9).incarnation(), Position::new(3, 9).index()), (3, 9));
    }

    #[test]
    fn a_wildcard_stands_for_one_whole_first_label() {
        let pattern: PrimaryPattern = "*.Contoso.com".parse().unwrap();
        assert!(pattern.matches(&"p-broker.contoso.com".parse().unwrap()));
        assert!(!pattern.matches(&"a.b.contoso.com".parse().unwrap()));
        assert!("advert*.contoso.com".parse::<PrimaryPattern>().is_err());
        assert!("p.*.com".parse::<PrimaryPattern>().is_err());
    }

    #[test]
    fn names_that_could_leave_their_folder_are_refused() {
        for bad in ["../x", "a/b", "a\0b", "", "..", &"x".repeat(300)] {
            let refusal = bad.parse::<VmName>().unwrap_err();
            assert_eq!(refusal.field.as_deref(), Some("name"), "{bad:?}");
            assert!(bad.parse::<StorageName>().is_err(), "{bad:?}");
            assert!(bad.parse::<InterfaceName>().is_err(), "{bad:?}");
        }
    }
}
