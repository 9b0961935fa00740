//! What decoders begin with: golden bytes, files of the product, and what once ended one of them.

use std::fs;
use std::path::{Path, PathBuf};

use landfall_agent::drive::gossip::wire::{ChitchatId, Known, Message, News, Step, Value};
use landfall_agent::drive::image::{ChangeSetWriter, IndexWriter, extent};
use landfall_agent::drive::replica::Manifest;
use landfall_agent::drive::send::record::Record;
use landfall_proto::codec;
use landfall_proto::id::{Fingerprint, SenderEpoch, VmId};
use landfall_proto::invitation::{self, Purpose};

/// A node's file.
const CONFIG: &str = include_str!("../../agent/src/config/node/example.toml");

/// Values of settings, names, addresses.
const TEXTS: &[&str] = &[
    "true",
    "10",
    "64MiB",
    "5s",
    "15min",
    "12h",
    "unlimited",
    "off",
    "auto",
    "random",
    "Kerberos",
    "09:00",
    "100",
    "100,mo-fr 08:00-18:00=20",
    "20; mon-fri 08:00-18:00 5",
    "10.9.0.5/24",
    "fd00::5/64",
    "10.1.0.0/16",
    "r1.contoso.com",
    "*.contoso.com",
    "default",
    "18555bd6-2397-4553-97bb-0fe30a65fe01",
    "\u{202e}r1",
    "..",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The golden bytes in the files whose names `begin` begins with one of.
fn golden(begin: &[&str]) -> Vec<Vec<u8>> {
    let mut samples = Vec::new();
    for path in files(&root().join("proto/tests/golden")) {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if begin.iter().any(|begin| name.starts_with(begin)) {
            let file = fs::read(&path).unwrap();
            let mut rest = &file[..];
            while let Some((length, after)) = rest.split_first_chunk::<4>() {
                let (part, after) = after.split_at(u32::from_be_bytes(*length) as usize);
                samples.push(part.to_vec());
                rest = after;
            }
        }
    }
    samples
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn gossip() -> Vec<Vec<u8>> {
    let id = |node: &str| ChitchatId::new(node, 7, ([10, 0, 0, 2], 7443).into());
    let known = |node| Known { id: id(node), heartbeat: 3, collected: 0, version: 9 };
    let value = Value { key: "facts".into(), text: "{}".repeat(40), version: 9, status: 0 };
    let news = |node| News { id: id(node), collected: 0, from: 0, values: vec![value.clone()] };
    let digest = vec![known("1"), known("2"), known("3")];
    [
        Message { step: Step::Syn, digest: digest.clone(), news: Vec::new(), cluster: "r.test".into() },
        Message { step: Step::SynAck, digest, news: vec![news("2"), news("3")], cluster: String::new() },
        Message { step: Step::Ack, digest: Vec::new(), news: vec![news("2")], cluster: String::new() },
    ]
    .iter()
    .map(Message::write)
    .collect()
}

/// A call is its kind, then rows, each behind its length: here without entries.
fn raft() -> Vec<Vec<u8>> {
    let call = |kind: u8, rows: &[&[u8]]| {
        let mut bytes = vec![kind];
        for row in rows {
            bytes.extend((row.len() as u32).to_le_bytes());
            bytes.extend_from_slice(row);
        }
        bytes
    };
    vec![
        call(0, &[&[codec::FORMAT, 3, 1, 1, 1, 0, 0]]),
        call(0, &[&[codec::FORMAT, 3, 1, 1, 1, 1, 3, 5, 1, 3, 4], &[codec::FORMAT, 3, 6, 0]]),
        call(1, &[&[codec::FORMAT, 3, 1, 1, 0, 0]]),
        call(2, &[&[codec::FORMAT, 3, 1, 1, 1, 0, 0, 0, 0, 0, 0, 1], &[1, 2, 3, 4]]),
    ]
}

fn codes() -> Vec<Vec<u8>> {
    let purposes = [Purpose::Join, Purpose::Pair];
    let invitations = golden(&["invitation"]).into_iter().map(|bytes| codec::decode(&bytes).unwrap());
    invitations
        .flat_map(|one| purposes.map(|purpose| invitation::to_text(purpose, &one).unwrap().into_bytes()))
        .collect()
}

fn change_sets() -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("set");
    let mut writer = ChangeSetWriter::create(&path, None).unwrap();
    for number in 0..3u64 {
        writer.append(&extent::data(0, number * 8192, vec![number as u8; 4096])).unwrap();
    }
    writer.seal(None).unwrap();
    vec![fs::read(&path).unwrap()]
}

/// What follows the checksum of a manifest.
fn manifests() -> Vec<Vec<u8>> {
    let mut manifest = Manifest::empty(VmId(uuid::Uuid::from_u128(7)));
    manifest.see(Fingerprint([3; 32]), SenderEpoch::from_number(9));
    let encoded = manifest.encode().unwrap();
    let body = encoded.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    vec![encoded[body..].to_vec()]
}

fn indexes() -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vda.index");
    let mut writer = IndexWriter::create(&path, 16 * 4096, 4096).unwrap();
    (0..16).for_each(|node| writer.push([node; 32]).unwrap());
    writer.finish().unwrap();
    vec![fs::read(&path).unwrap()]
}

/// Everything that `target` begins with.
pub fn of(target: &str) -> Vec<Vec<u8>> {
    let mut samples = match target {
        "frame" => vec![fs::read(root().join("proto/tests/golden/control_request.bin")).unwrap()],
        "control" => golden(&["control_"]),
        "broker" => golden(&["broker_"]),
        "data" => golden(&["data_", "copy_", "pass_", "leaf_"]),
        "join" => golden(&["join_", "invitation"]),
        "committed" => golden(&["proposal", "command", "answer", "member_list", "found", "peer", "replica", "primary"]),
        "gossip" => gossip(),
        "raft" => raft(),
        "code" => codes(),
        "change_set" => change_sets(),
        "manifest" => manifests(),
        "index" => indexes(),
        "record" => vec![codec::encode(&Record::default()).unwrap()],
        "config" => vec![CONFIG.as_bytes().to_vec()],
        "texts" => TEXTS.iter().map(|text| text.as_bytes().to_vec()).collect(),
        _ => Vec::new(),
    };
    for folder in ["seeds", "crashes"] {
        samples
            .extend(files(&root().join("fuzz").join(folder).join(target)).iter().map(|path| fs::read(path).unwrap()));
    }
    samples
}

/// Writes the samples where cargo-fuzz looks for what to begin with.
pub fn write(target: &str, samples: &[Vec<u8>]) {
    let folder = root().join("fuzz/corpus").join(target);
    fs::create_dir_all(&folder).unwrap();
    for sample in samples {
        fs::write(folder.join(blake3::hash(sample).to_hex().as_str()), sample).unwrap();
    }
}
