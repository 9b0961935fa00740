//! Change sets on disk: written, read back from anywhere, torn at every byte.

use std::path::Path;

use landfall_proto::id::{Root, UnixMillis};
use landfall_proto::message::control::Consistency;
use landfall_proto::message::data::{ChangeSet, Content, Extent, Tip};
use landfall_proto::model::DiskSpec;
use proptest::prelude::*;

use super::change_set::*;
use crate::drive::image::extent;
use crate::drive::image::test_disk::random_bytes;

fn change_set() -> ChangeSet {
    ChangeSet {
        base: None,
        tip: Tip { sequence: 7, root: Root([9; 32]) },
        disks: vec![(DiskSpec { target: "vda".parse().unwrap(), bytes: 1 << 20 }, Root([3; 32]))],
        taken_at: UnixMillis(1),
        consistency: Consistency::Crash,
        stays: true,
        resume_at: 0,
    }
}

fn some_extents() -> Vec<Extent> {
    vec![
        extent::data(0, 0, random_bytes(512, 1)),
        Extent { disk: 0, offset: 4096, content: Content::Zero(1 << 30) },
        extent::data(1, 0, random_bytes(700, 2)),
        Extent { disk: 2, offset: 8192, content: Content::Zero(4096) },
        extent::data(2, 65_536, random_bytes(300, 3)),
    ]
}

fn read_from(path: &Path, first: u64) -> Vec<Extent> {
    let mut reader = ChangeSetReader::open(path).unwrap();
    reader.skip_to(first).unwrap();
    std::iter::from_fn(|| reader.next_extent().unwrap()).collect()
}

fn written(path: &Path, extents: &[Extent]) -> Vec<u8> {
    let mut writer = ChangeSetWriter::create(path, None).unwrap();
    extents.iter().for_each(|extent| writer.append(extent).unwrap());
    writer.seal(Some(&change_set())).unwrap();
    assert!(writer.append(&extents[0]).is_err(), "a sealed file takes no more");
    std::fs::read(path).unwrap()
}

#[test]
fn a_change_set_reads_back_from_any_extent_on() {
    let folder = tempfile::tempdir().unwrap();
    let (path, extents) = (folder.path().join("spool"), some_extents());
    written(&path, &extents);
    for first in 0..=extents.len() {
        assert_eq!(read_from(&path, first as u64), extents[first..]);
    }
    let found = inspect(&path).unwrap();
    assert!(found.complete && found.change_set == Some(change_set()));
    let mut reader = ChangeSetReader::open(&path).unwrap();
    assert_eq!(reader.first_of(2).unwrap().as_ref(), Some(&extents[3]));
    assert_eq!(ChangeSetReader::open(&path).unwrap().first_of(3).unwrap(), None);
}

#[test]
fn a_tail_torn_at_any_byte_is_durable_up_to_the_last_whole_extent_and_can_be_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let (path, extents) = (folder.path().join("log"), some_extents());
    let bytes = written(&path, &extents);
    let mut ends = vec![HEADER_BYTES];
    for extent in &extents {
        let payload = if let Content::Data(data, _) = &extent.content { data.len() } else { 0 };
        ends.push(ends.last().unwrap() + (HEAD_BYTES + payload) as u64);
    }
    for cut in HEADER_BYTES..bytes.len() as u64 {
        let whole = ends.iter().filter(|end| **end <= cut).count() - 1;
        // Torn by a lost end, and by an end of zeroes: a file system may leave either.
        for keep_length in [false, true] {
            let mut torn = bytes[..cut as usize].to_vec();
            torn.resize(if keep_length { bytes.len() } else { torn.len() }, 0);
            // Zero bytes may be what was there.
            let same = torn == bytes;
            std::fs::write(&path, &torn).unwrap();
            let found = inspect(&path).unwrap();
            assert_eq!(found.complete, same, "cut at {cut}");
            if !same {
                assert!(found.counts.extents as usize >= whole, "cut at {cut}");
                assert_eq!(read_from(&path, 0), extents[..found.counts.extents as usize], "cut at {cut}");
            }
        }
    }
    for whole in 0..extents.len() {
        std::fs::write(&path, &bytes[..ends[whole] as usize + 10]).unwrap();
        let (mut writer, found) = ChangeSetWriter::resume(&path, u64::MAX).unwrap();
        assert_eq!((found.counts.extents as usize, found.complete), (whole, false));
        extents[whole..].iter().for_each(|extent| writer.append(extent).unwrap());
        writer.seal(None).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }
    let (writer, _) = ChangeSetWriter::resume(&path, 2).unwrap();
    assert_eq!(writer.counts().extents, 2);
    drop(writer);
    assert_eq!(read_from(&path, 0), extents[..2]);
}

#[test]
fn a_torn_header_is_no_change_set() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let bytes = written(&path, &some_extents());
    for cut in 0..FIXED + 50 {
        std::fs::write(&path, &bytes[..cut]).unwrap();
        assert_eq!(inspect(&path).unwrap_err().code, "bad_change_set", "cut at {cut}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_flipped_bit_ends_the_file_before_it(at in 0_usize..3000, bit in 0_u8..8) {
        let folder = tempfile::tempdir().unwrap();
        let (path, extents) = (folder.path().join("log"), some_extents());
        let mut bytes = written(&path, &extents);
        let at = HEADER_BYTES as usize + at % (bytes.len() - HEADER_BYTES as usize);
        bytes[at] ^= 1 << bit;
        std::fs::write(&path, &bytes).unwrap();
        let found = inspect(&path).unwrap();
        prop_assert!(!found.complete);
        let mut sealed = ChangeSetReader::open_sealed(&path).unwrap();
        let read = std::iter::from_fn(|| sealed.next_extent().transpose()).collect::<Result<Vec<_>, _>>();
        prop_assert_eq!(read.unwrap_err().code, "damaged");
        prop_assert_eq!(&read_from(&path, 0)[..], &extents[..found.counts.extents as usize]);
    }
}
