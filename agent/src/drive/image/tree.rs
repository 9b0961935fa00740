//! The hash tree over a disk: BLAKE3's own, cut at aligned blocks.
//!
//! The hash of an aligned node is the chaining value that BLAKE3 has for that subtree, so the root of a disk is plain
//! BLAKE3 of its raw bytes: what `b3sum disk.raw` prints. A node that covers the whole disk has the root itself as its
//! hash. The shape is BLAKE3's: a left subtree is the largest power of two below the length; only the right edge is
//! short. Nothing here does IO.

use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use landfall_proto::Refusal;
use landfall_proto::id::{DiskTarget, Root};
use landfall_proto::model::DiskSpec;
use landfall_proto::refusal::Class;

/// The hash of a node of the tree.
pub type Hash = [u8; 32];

/// The unit of change: a page of every guest file system, four chunks of BLAKE3.
pub const BLOCK_BYTES: u64 = 4096;
/// The unit of verification: a qcow2 cluster.
pub const LEAF_BYTES: u64 = 65_536;
/// The smallest disk: one leaf. Below it a block could be the whole tree, whose hash is finished differently.
pub const MIN_DISK_BYTES: u64 = LEAF_BYTES;
/// The largest disk: its block hashes take 32 GiB, the tables of a fully mapped qcow2 base 640 MiB.
pub const MAX_DISK_BYTES: u64 = 4 << 40;
/// The most disks of one VM: as many as four full SCSI controllers, Hyper-V's own bound.
pub const MAX_DISKS: usize = 256;

/// What separates the root of a point from every other use of BLAKE3.
const CONTENT_CONTEXT: &str = "landfall 2026-11 content root of all disks of a recovery point";

/// How many nodes of `node_bytes` a disk of `disk_bytes` has; the last one may be short.
pub const fn node_count(disk_bytes: u64, node_bytes: u64) -> u64 {
    disk_bytes.div_ceil(node_bytes)
}

/// The length of node `index`: `node_bytes`, or less at the disk's end.
pub const fn node_length(disk_bytes: u64, node_bytes: u64, index: u64) -> u64 {
    let start = index * node_bytes;
    let rest = disk_bytes.saturating_sub(start);
    if rest < node_bytes { rest } else { node_bytes }
}

/// The hash of the aligned node of `data` at `offset` in a disk of `disk_bytes`.
///
/// `data` is the whole node: a power of two of at least 1 KiB, or what is left at the disk's end, never empty.
pub fn data_hash(disk_bytes: u64, offset: u64, data: &[u8]) -> Hash {
    if offset == 0 && data.len() as u64 == disk_bytes {
        return *blake3::hash(data).as_bytes();
    }
    blake3::Hasher::new().set_input_offset(offset).update(data).finalize_non_root()
}

/// The hash of an aligned node of zeroes, at most one leaf long.
pub fn zero_hash(disk_bytes: u64, offset: u64, length: u64) -> Hash {
    static ZEROES: [u8; LEAF_BYTES as usize] = [0; LEAF_BYTES as usize];
    data_hash(disk_bytes, offset, &ZEROES[..length.min(LEAF_BYTES) as usize])
}

/// Merges the hashes of neighbouring nodes of one size, in order, into the hash of the node above them.
///
/// It holds one hash for each bit of the count: at most 64, whatever the disk.
#[derive(Clone, Debug, Default)]
pub struct Merger {
    stack: Vec<Hash>,
    pushed: u64,
}

impl Merger {
    /// Takes the next node's hash.
    pub fn push(&mut self, hash: Hash) {
        self.push_subtree(hash, 1);
    }

    /// Takes the hash of the next `nodes` nodes together: a power of two, of which a multiple was pushed before.
    pub fn push_subtree(&mut self, hash: Hash, nodes: u64) {
        // A pair is merged only once something follows it: the very last merge may have to be the root's.
        while self.stack.len() > self.pushed.count_ones() as usize {
            self.merge_top();
        }
        self.stack.push(hash);
        self.pushed += nodes;
    }

    /// How many hashes were pushed.
    pub fn pushed(&self) -> u64 {
        self.pushed
    }

    fn merge_top(&mut self) {
        if let (Some(right), Some(left)) = (self.stack.pop(), self.stack.pop()) {
            self.stack.push(merge_subtrees_non_root(&left, &right, Mode::Hash));
        }
    }

    /// The hash of everything pushed, `whole` where that is the whole disk; `None` where nothing was pushed.
    pub fn finish(mut self, whole: bool) -> Option<Hash> {
        while self.stack.len() > 2 {
            self.merge_top();
        }
        match (self.stack.as_slice(), whole) {
            ([], _) => None,
            ([only], _) => Some(*only),
            ([left, right, ..], true) => Some(*merge_subtrees_root(left, right, Mode::Hash).as_bytes()),
            ([left, right, ..], false) => Some(merge_subtrees_non_root(left, right, Mode::Hash)),
        }
    }
}

/// The content root of a point: BLAKE3 over the ordered disks, each with its name, its size and its root.
pub fn content_root<'a>(disks: impl IntoIterator<Item = (&'a DiskTarget, u64, &'a Root)>) -> Root {
    let mut hasher = blake3::Hasher::new_derive_key(CONTENT_CONTEXT);
    for (target, bytes, root) in disks {
        let name = target.as_str().as_bytes();
        hasher.update(&(name.len() as u64).to_le_bytes()).update(name);
        hasher.update(&bytes.to_le_bytes()).update(&root.0);
    }
    Root(*hasher.finalize().as_bytes())
}

/// The content root over disks as a change set lists them.
pub fn content_root_of(disks: &[(DiskSpec, Root)]) -> Root {
    content_root(disks.iter().map(|(spec, root)| (&spec.target, spec.bytes, root)))
}

/// Refuses a disk whose size cannot be replicated.
pub fn check_size(target: &DiskTarget, bytes: u64) -> Result<(), Refusal> {
    if (MIN_DISK_BYTES..=MAX_DISK_BYTES).contains(&bytes) {
        return Ok(());
    }
    Err(Refusal::new(Class::Refused, "disk_size", format!("disk {target} has {bytes} bytes"))
        .field("disk.bytes")
        .remedy(format!("a replicated disk has {MIN_DISK_BYTES} to {MAX_DISK_BYTES} bytes")))
}

/// Refuses a list of disks that no VM can have: none, too many, one name twice, or a size out of bounds.
pub fn check_disks(disks: &[DiskSpec]) -> Result<(), Refusal> {
    if disks.is_empty() || disks.len() > MAX_DISKS {
        return Err(Refusal::invalid("disks", &disks.len().to_string(), "a VM has 1 to 256 disks"));
    }
    for (at, disk) in disks.iter().enumerate() {
        check_size(&disk.target, disk.bytes)?;
        if disks[..at].iter().any(|earlier| earlier.target == disk.target) {
            return Err(Refusal::invalid("disk.target", disk.target.as_str(), "name each disk once"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes_of(length: usize, seed: u64) -> Vec<u8> {
        let mut out = vec![0; length];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
        out
    }

    fn nodes(data: &[u8], node_bytes: usize) -> Vec<Hash> {
        let disk = data.len() as u64;
        data.chunks(node_bytes).enumerate().map(|(i, c)| data_hash(disk, (i * node_bytes) as u64, c)).collect()
    }

    fn root_by(data: &[u8], node_bytes: usize) -> Hash {
        let mut merger = Merger::default();
        nodes(data, node_bytes).into_iter().for_each(|hash| merger.push(hash));
        merger.finish(true).unwrap()
    }

    #[test]
    fn leaves_pushed_among_blocks_give_the_same_root() {
        for (size, every) in [(131_072, 1), (131_072, 2), (200_001, 2), (262_144, 3), (1_000_003, 2), (1_000_003, 5)] {
            let data = bytes_of(size, size as u64);
            let mut merger = Merger::default();
            for (number, leaf) in data.chunks(65_536).enumerate() {
                let offset = number * 65_536;
                if number % every == 0 && leaf.len() == 65_536 {
                    merger.push_subtree(data_hash(size as u64, offset as u64, leaf), 16);
                } else {
                    let blocks = leaf.chunks(4096).enumerate();
                    blocks.for_each(|(i, b)| merger.push(data_hash(size as u64, (offset + i * 4096) as u64, b)));
                }
            }
            assert_eq!(merger.pushed(), size.div_ceil(4096) as u64);
            assert_eq!(merger.finish(true).unwrap(), *blake3::hash(&data).as_bytes(), "{size}, every {every}");
        }
    }

    #[test]
    fn the_root_of_every_awkward_size_is_plain_blake3() {
        for size in [65_536, 65_537, 66_560, 69_632, 100_000, 131_072, 131_073, 196_608, 200_001, 262_144, 1_000_003] {
            let data = bytes_of(size, size as u64);
            assert_eq!(root_by(&data, 4096), *blake3::hash(&data).as_bytes(), "{size} by blocks");
            assert_eq!(root_by(&data, 65_536), *blake3::hash(&data).as_bytes(), "{size} by leaves");
        }
    }

    #[test]
    fn the_content_root_depends_on_order_name_size_and_root() {
        let (a, b) = ("vda".parse::<DiskTarget>().unwrap(), "vdb".parse::<DiskTarget>().unwrap());
        let (x, y) = (Root([1; 32]), Root([2; 32]));
        let roots = [
            content_root([(&a, 1, &x), (&b, 1, &y)]),
            content_root([(&b, 1, &y), (&a, 1, &x)]),
            content_root([(&a, 2, &x), (&b, 1, &y)]),
            content_root([(&a, 1, &y), (&b, 1, &x)]),
            content_root([(&a, 1, &x)]),
        ];
        for (at, root) in roots.iter().enumerate() {
            assert!(roots[..at].iter().all(|other| other != root), "{at}");
        }
    }

    #[test]
    fn a_disk_below_a_leaf_or_named_twice_is_refused() {
        let disk = |target: &str, bytes| DiskSpec { target: target.parse().unwrap(), bytes };
        assert_eq!(check_disks(&[disk("vda", 65_535)]).unwrap_err().code, "disk_size");
        assert_eq!(check_disks(&[disk("vda", MAX_DISK_BYTES + 1)]).unwrap_err().code, "disk_size");
        assert!(check_disks(&[disk("vda", 65_536), disk("vda", 65_536)]).is_err());
        assert!(check_disks(&[]).is_err());
        check_disks(&[disk("vda", 65_536), disk("vdb", 65_537)]).unwrap();
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn any_size_has_the_root_of_plain_blake3(size in 65_536_usize..900_000, seed: u64) {
            let data = bytes_of(size, seed);
            prop_assert_eq!(root_by(&data, 4096), *blake3::hash(&data).as_bytes());
        }

        #[test]
        fn a_node_merged_from_blocks_is_the_node_hashed_whole(size in 65_536_usize..900_000, shift in 13_u32..20) {
            let data = bytes_of(size, 7);
            let node = 1_usize << shift;
            let blocks = nodes(&data, 4096);
            for (at, hash) in nodes(&data, node).into_iter().enumerate() {
                let mut merger = Merger::default();
                blocks.iter().skip(at * node / 4096).take(node / 4096).for_each(|block| merger.push(*block));
                prop_assert_eq!(merger.finish(size <= node).unwrap(), hash);
            }
        }
    }
}
