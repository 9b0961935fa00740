//! Extents: checked where they come in, split into blocks where they are hashed.

use landfall_proto::Refusal;
use landfall_proto::message::data::{Content, EXTENT_MAX, Extent};
use landfall_proto::refusal::Class;

use super::tree::{self, BLOCK_BYTES, Hash};

/// The bytes that an extent covers.
pub fn length(extent: &Extent) -> u64 {
    match &extent.content {
        Content::Data(data, _) => data.len() as u64,
        Content::Zero(length) => *length,
    }
}

/// The bytes of data in an extent: zeroes are none.
pub fn data_length(extent: &Extent) -> u64 {
    match &extent.content {
        Content::Data(data, _) => data.len() as u64,
        Content::Zero(_) => 0,
    }
}

/// An extent of data with its hash.
pub fn data(disk: u16, offset: u64, data: Vec<u8>) -> Extent {
    let hash = *blake3::hash(&data).as_bytes();
    Extent { disk, offset, content: Content::Data(data, hash) }
}

/// Where the extents of a change set have got to: they come in order of disk and offset and never overlap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Order {
    next: Option<(u16, u64)>,
}

impl Order {
    /// Refuses an extent that is not behind all earlier ones.
    pub fn check(&mut self, extent: &Extent) -> Result<(), Refusal> {
        let start = (extent.disk, extent.offset);
        if self.next.is_some_and(|next| start < next) {
            return Err(bad(extent, "comes after a later one"));
        }
        self.passed(extent.disk, extent.offset.saturating_add(length(extent)));
        Ok(())
    }

    /// Notes that everything before `end` of `disk` has come.
    pub fn passed(&mut self, disk: u16, end: u64) {
        self.next = Some((disk, end));
    }
}

fn bad(extent: &Extent, why: &str) -> Refusal {
    let message = format!("extent of disk {} at {} (+{}) {why}", extent.disk, extent.offset, length(extent));
    Refusal::new(Class::Refused, "bad_extent", message)
        .field("extent")
        .remedy("send aligned extents in order of disk and offset, each with the BLAKE3 of its bytes")
}

/// Refuses an extent that leaves its disk, is not aligned, is empty or too long, or whose bytes are not what its hash
/// says. `sizes` are the disks' bytes, by index.
pub fn check(extent: &Extent, sizes: &[u64]) -> Result<(), Refusal> {
    let Some(bytes) = sizes.get(usize::from(extent.disk)).copied() else {
        return Err(bad(extent, "names a disk that the VM does not have"));
    };
    let Some(end) = extent.offset.checked_add(length(extent)).filter(|end| *end <= bytes) else {
        return Err(bad(extent, &format!("ends past the disk's {bytes} bytes")));
    };
    if extent.offset == end {
        return Err(bad(extent, "is empty"));
    }
    if !extent.offset.is_multiple_of(BLOCK_BYTES) || !(end.is_multiple_of(BLOCK_BYTES) || end == bytes) {
        return Err(bad(extent, "is not aligned to 4096 bytes"));
    }
    if let Content::Data(data, hash) = &extent.content {
        if data.len() > EXTENT_MAX {
            return Err(bad(extent, &format!("is longer than {EXTENT_MAX} bytes")));
        }
        if blake3::hash(data).as_bytes() != hash {
            return Err(bad(extent, "does not have the hash that it names"));
        }
    }
    Ok(())
}

/// The number of the first block of a checked extent, and one past the last.
pub fn block_range(extent: &Extent) -> (u64, u64) {
    (extent.offset / BLOCK_BYTES, (extent.offset + length(extent)).div_ceil(BLOCK_BYTES))
}

/// The hash of block `block`, which a checked `extent` of a disk of `disk_bytes` covers.
pub fn block_hash(extent: &Extent, disk_bytes: u64, block: u64) -> Hash {
    let (start, length) = (block * BLOCK_BYTES, tree::node_length(disk_bytes, BLOCK_BYTES, block));
    match &extent.content {
        Content::Zero(_) => tree::zero_hash(disk_bytes, start, length),
        Content::Data(data, _) => {
            let from = (start - extent.offset) as usize;
            tree::data_hash(disk_bytes, start, &data[from..from + length as usize])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_extent_is_refused_with_what_is_wrong() {
        let sizes = [100_000, 65_536];
        let zero = |disk, offset, length| Extent { disk, offset, content: Content::Zero(length) };
        check(&data(0, 4096, vec![1; 8192]), &sizes).unwrap();
        check(&data(0, 98_304, vec![1; 1696]), &sizes).unwrap();
        check(&zero(1, 0, 65_536), &sizes).unwrap();
        let mut forged = data(0, 0, vec![1; 4096]);
        if let Content::Data(_, hash) = &mut forged.content {
            hash[0] ^= 1;
        }
        for (extent, why) in [
            (zero(2, 0, 4096), "does not have"),
            (zero(0, 98_304, 4096), "ends past"),
            (zero(0, u64::MAX - 4095, 4096), "ends past"),
            (zero(0, 0, 0), "empty"),
            (zero(0, 512, 4096), "aligned"),
            (data(0, 0, vec![0; 100]), "aligned"),
            (forged, "hash"),
        ] {
            let refusal = check(&extent, &sizes).unwrap_err();
            assert!(refusal.message.contains(why), "{refusal}");
        }
        let long = data(0, 0, vec![0; EXTENT_MAX + 4096]);
        assert!(check(&long, &[1 << 30]).unwrap_err().message.contains("longer"));
    }

    #[test]
    fn extents_come_in_order_and_never_overlap() {
        let zero = |disk, offset, length| Extent { disk, offset, content: Content::Zero(length) };
        let mut order = Order::default();
        for good in [zero(0, 0, 4096), zero(0, 4096, 4096), zero(0, 40_960, 8192), zero(1, 0, 4096)] {
            order.check(&good).unwrap();
        }
        order.check(&zero(0, 81_920, 4096)).unwrap_err();
        order.check(&zero(1, 0, 4096)).unwrap_err();
        order.check(&zero(1, 4096, 4096)).unwrap();
    }
}
