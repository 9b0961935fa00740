//! One record: 4 KiB that name their place and carry their own checksum.

/// Bytes of a record, and of a slot: a page, so that one write is never seen half done by a stopped process.
pub(super) const RECORD: usize = 4096;

const MAGIC: [u8; 8] = *b"LFGUEST1";
const CHECKSUM: usize = 32;

/// Where a record belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Label {
    /// Its number, counted from 1.
    pub number: u64,
    /// Its disk, counted from 0.
    pub disk: u32,
    /// How many disks take turns.
    pub disks: u32,
    /// Slots on each disk.
    pub slots: u64,
}

/// What a slot holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Slot {
    /// Zeroes: never written.
    Blank,
    /// A whole record.
    Record(Label),
    /// Anything else.
    Damaged,
}

impl Label {
    /// The record's bytes. Every sector differs from the one that any other record has there.
    pub(super) fn encode(&self) -> Box<[u8; RECORD]> {
        let mut bytes = Box::new([0; RECORD]);
        let mut filling = blake3::Hasher::new();
        filling.update(&self.number.to_le_bytes()).update(&self.disk.to_le_bytes());
        filling.finalize_xof().fill(&mut bytes[..]);
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..16].copy_from_slice(&self.number.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.disk.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.disks.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.slots.to_le_bytes());
        let checksum = blake3::hash(&bytes[..RECORD - CHECKSUM]);
        bytes[RECORD - CHECKSUM..].copy_from_slice(checksum.as_bytes());
        bytes
    }
}

/// What these bytes of a slot are.
pub(super) fn decode(bytes: &[u8; RECORD]) -> Slot {
    if bytes.iter().all(|byte| *byte == 0) {
        return Slot::Blank;
    }
    let checksum = blake3::hash(&bytes[..RECORD - CHECKSUM]);
    if bytes[..8] != MAGIC || bytes[RECORD - CHECKSUM..] != *checksum.as_bytes() {
        return Slot::Damaged;
    }
    let number = |from: usize, length: usize| {
        bytes[from..from + length].iter().rev().fold(0_u64, |value, byte| (value << 8) | u64::from(*byte))
    };
    Slot::Record(Label {
        number: number(8, 8),
        disk: number(16, 4) as u32,
        disks: number(20, 4) as u32,
        slots: number(24, 8),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_only_whole() {
        let label = Label { number: 77, disk: 1, disks: 2, slots: 64 };
        let bytes = label.encode();
        assert_eq!(decode(&bytes), Slot::Record(label));
        let other = Label { number: 205, ..label }.encode();
        for sector in 0..RECORD / 512 {
            let mut mixed = bytes.clone();
            let range = sector * 512..(sector + 1) * 512;
            mixed[range.clone()].copy_from_slice(&other[range]);
            assert_eq!(decode(&mixed), Slot::Damaged, "sector {sector}");
        }
        assert_eq!(decode(&[0; RECORD]), Slot::Blank);
    }
}
