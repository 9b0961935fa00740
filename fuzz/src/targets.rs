//! Every decoder that reads what somebody else wrote, as a function of bytes: given to libFuzzer by `fuzz_targets/`, and to
//! a seeded mutator by `tests/decoders` on every run of the tests. None may panic, whatever the bytes; what can be read can
//! be written and read again, and is the same.

use std::fmt::Debug;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use landfall_agent::config::NodeConfig;
use landfall_agent::drive::gossip::sieve::Sieve;
use landfall_agent::drive::gossip::wire::{ChitchatId, Message};
use landfall_agent::drive::image::{ChangeSetReader, HashIndex, Readable, Source, inspect};
use landfall_agent::drive::replica::Manifest;
use landfall_agent::drive::send::record::Record;
use landfall_agent::vm_service::{Image, ImageFormat};
use landfall_proto::codec;
use landfall_proto::frame;
use landfall_proto::id::{DiskTarget, Fqdn, MemberId, NodeName, StorageName, VmId};
use landfall_proto::invitation::{self, Purpose};
use landfall_proto::message::broker::{BrokerAnswer, BrokerRequest};
use landfall_proto::message::control::{ControlAnswer, ControlRequest};
use landfall_proto::message::data::{CopyAnswer, CopyRequest, DataAnswer, DataRequest, Hello, Welcome};
use landfall_proto::message::join::{Invitation, JoinAnswer, JoinRequest};
use landfall_proto::message::leaves::{LeafAnswer, LeafRequest};
use landfall_proto::message::pass::{PassAnswer, PassRequest};
use landfall_proto::model::{
    Answer, Bandwidth, Command, Found, HostAddress, MemberList, Peer, Primary, Proposal, Replica, Subnet,
};
use landfall_proto::seam::Time;
use landfall_store::consensus::{Rpc, reads, speaker};
use landfall_store::settings::{DECLARATIONS, validate};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A decoder: its name, and what it does with bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("frame", frames),
    ("control", control),
    ("broker", broker),
    ("data", data),
    ("join", join),
    ("committed", committed),
    ("gossip", gossip),
    ("raft", raft),
    ("code", code),
    ("change_set", change_set),
    ("manifest", manifest),
    ("index", index),
    ("qcow2", qcow2),
    ("record", record),
    ("config", config),
    ("texts", texts),
];

/// Reads `bytes` as a `T`: then it can be written, and is the same when it is read again.
fn same<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) {
    let Ok(value) = codec::decode::<T>(bytes) else { return };
    let Ok(written) = codec::encode(&value) else { return };
    let again = codec::decode::<T>(&written);
    assert!(again.as_ref().is_ok_and(|again| *again == value), "{value:?} became {again:?}");
}

fn frames(bytes: &[u8]) {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_current_thread().build().unwrap_or_else(|_| std::process::abort())
    });
    runtime.block_on(async {
        let mut stream = bytes;
        while let Ok(Some(_)) = frame::receive_or_end::<ControlRequest, _>(&mut stream, 64 * 1024).await {}
    });
}

fn control(bytes: &[u8]) {
    same::<ControlRequest>(bytes);
    same::<ControlAnswer>(bytes);
}

fn broker(bytes: &[u8]) {
    same::<BrokerRequest>(bytes);
    same::<BrokerAnswer>(bytes);
}

fn data(bytes: &[u8]) {
    same::<Hello>(bytes);
    same::<Welcome>(bytes);
    same::<DataRequest>(bytes);
    same::<DataAnswer>(bytes);
    same::<CopyRequest>(bytes);
    same::<CopyAnswer>(bytes);
    same::<PassRequest>(bytes);
    same::<PassAnswer>(bytes);
    same::<LeafRequest>(bytes);
    same::<LeafAnswer>(bytes);
}

fn join(bytes: &[u8]) {
    same::<JoinRequest>(bytes);
    same::<JoinAnswer>(bytes);
    same::<Invitation>(bytes);
}

fn committed(bytes: &[u8]) {
    same::<Proposal>(bytes);
    same::<Command>(bytes);
    same::<Answer>(bytes);
    same::<MemberList>(bytes);
    same::<Found>(bytes);
    same::<Peer>(bytes);
    same::<Replica>(bytes);
    same::<Primary>(bytes);
}

/// What passes the sieve is a message for chitchat too.
fn gossip(bytes: &[u8]) {
    let address = std::net::SocketAddr::from(([10, 0, 0, 2], 7443));
    let mut sieve = Sieve::default();
    sieve.begin(ChitchatId::new("1", 7, address), "r.test".to_owned());
    if let Ok(Some(left)) = sieve.sift(MemberId::from_number(2), address, bytes, Time::default()) {
        let read = Message::read(&left);
        assert!(read.is_some_and(|message| message.write() == left), "what is left is a message");
        assert!(landfall_agent::drive::gossip::is_understood(&left), "chitchat does not understand what was left");
    }
}

fn raft(bytes: &[u8]) {
    let Some((kind, call)) = bytes.split_first() else { return };
    let kinds = [Rpc::Append, Rpc::Vote, Rpc::Snapshot, Rpc::Yield];
    let rpc = kinds[usize::from(*kind) % kinds.len()];
    reads(rpc, call);
    speaker(rpc, call);
}

fn code(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for purpose in [Purpose::Join, Purpose::Pair] {
        if let Ok(invitation) = invitation::from_text(purpose, text) {
            let written = invitation::to_text(purpose, &invitation);
            assert!(written.is_ok_and(|text| invitation::from_text(purpose, &text).ok() == Some(invitation)));
        }
    }
}

/// `bytes` as a file, for as long as `read` takes; in memory where the system has such a place.
fn as_file(bytes: &[u8], read: impl FnOnce(&Path)) {
    let shared = Path::new("/dev/shm");
    let above = if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() };
    if let Ok(file) = tempfile::NamedTempFile::new_in(above)
        && fs::write(file.path(), bytes).is_ok()
    {
        read(file.path());
    }
}

fn change_set(bytes: &[u8]) {
    as_file(bytes, |path| {
        drop(inspect(path));
        if let Ok(mut reader) = ChangeSetReader::open(path) {
            while let Ok(Some(_)) = reader.next_extent() {}
        }
        if let Ok(mut reader) = ChangeSetReader::open_sealed(path) {
            drop(reader.skip_to(2));
            drop(reader.first_of(1));
        }
    });
}

/// With the checksum that belongs to the bytes: without it nothing behind it would be reached.
fn manifest(bytes: &[u8]) {
    let path = Path::new("manifest");
    drop(Manifest::decode(bytes, path));
    let Some(good) = Manifest::empty(VmId(uuid::Uuid::nil())).encode().ok() else { return };
    let Some(title) = good.split(|byte| *byte == b'\n').next().filter(|title| title.len() > 64) else { return };
    let mut whole = title[..title.len() - 64].to_vec();
    whole.extend_from_slice(blake3::hash(bytes).to_hex().as_bytes());
    whole.push(b'\n');
    whole.extend_from_slice(bytes);
    if let Ok(manifest) = Manifest::decode(&whole, path) {
        let written = manifest.encode();
        assert!(written.is_ok_and(|written| Manifest::decode(&written, path).is_ok_and(|again| again == manifest)));
    }
}

fn index(bytes: &[u8]) {
    as_file(bytes, |path| {
        if let Ok(Some(index)) = HashIndex::open(path) {
            drop(index.read(0, 16));
            // What a peer asks for in a comparison.
            for (node_bytes, first) in [(4096, 3), (1 << 40, 1), (4096, u64::MAX - 8), (u64::MAX, u64::MAX)] {
                drop(index.node_hashes(node_bytes, first, 16));
            }
        }
    });
}

fn qcow2(bytes: &[u8]) {
    as_file(bytes, |path| {
        let Ok(target) = "vda".parse::<DiskTarget>() else { return };
        let image = Image { target, path: path.to_owned(), format: ImageFormat::Qcow2, bytes: 64 << 10 };
        if let Ok(source) = Source::open(&image) {
            let mut buffer = [0; 4096];
            let mut at = 0;
            while at < source.bytes() {
                let Ok(run) = source.run_at(at, 4096) else { return };
                drop(source.read_at(at, &mut buffer[..run.length.min(4096) as usize]));
                at += run.length.max(1);
            }
        }
    });
}

fn record(bytes: &[u8]) {
    drop(codec::decode::<Record>(bytes));
}

fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Err(faults) = NodeConfig::parse(Path::new("landfall.toml"), text) {
        assert!(!faults.to_string().is_empty());
    }
}

/// Calendars, sizes, spans, names, addresses: whatever stands in a setting or an argument.
fn texts(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for setting in DECLARATIONS {
        if let Ok(written) = validate(setting.key, text) {
            assert_eq!(validate(setting.key, &written).ok(), Some(written));
        }
    }
    drop(Bandwidth::parse(text));
    drop(text.parse::<HostAddress>());
    drop(text.parse::<Subnet>());
    if let Ok(name) = text.parse::<Fqdn>() {
        assert_eq!(name.to_string().parse().ok(), Some(name));
    }
    drop(text.parse::<NodeName>());
    drop(text.parse::<StorageName>());
    drop(text.parse::<VmId>());
}
