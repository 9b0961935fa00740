//! Extents on their way: made smaller where it pays, and made whole again within a bound. The only file that names zstd.
//!
//! What to compress is decided in [`packing`]; here it is done. Everything here takes a while: call it where that is
//! allowed.

use landfall_proto::message::data::{Content, DataRequest, EXTENT_MAX, Extent, Packed};
use landfall_proto::{Class, Refusal};
use landfall_store::settings::Compression;
use zstd::bulk::{Compressor, Decompressor};

use crate::decide::packing::{self, Packing, Plain};

/// The fastest ordinary level: a line is to be saved, not a processor kept busy.
const LEVEL: i32 = 1;

/// An extent as it travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Carried {
    /// As it is.
    Plain(Extent),
    /// Compressed.
    Packed(Packed),
}

/// How many extents travelled how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Compressed.
    pub packed: u64,
    /// As they are, because their sample gained nothing.
    pub not_by_sample: u64,
    /// As they are, though their sample had promised something.
    pub not_by_whole: u64,
}

/// Compresses one extent after the other. It holds about a megabyte once it has begun.
pub struct Packer {
    compression: Compression,
    zstd: Option<Compressor<'static>>,
    sample: Vec<u8>,
    out: Vec<u8>,
    counts: Counts,
}

impl Packer {
    /// A packer that does what the setting says.
    pub fn new(compression: Compression) -> Self {
        Self { compression, zstd: None, sample: Vec::new(), out: Vec::new(), counts: Counts::default() }
    }

    /// What it has done so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Makes `extent` ready to travel.
    pub fn pack(&mut self, extent: Extent) -> Carried {
        let Content::Data(data, hash) = &extent.content else { return Carried::Plain(extent) };
        match self.smaller(data) {
            Ok(frame) => {
                self.counts.packed += 1;
                let length = data.len() as u32;
                Carried::Packed(Packed { disk: extent.disk, offset: extent.offset, length, hash: *hash, frame })
            }
            Err(why) => {
                match why {
                    Plain::Off => {}
                    Plain::SampleGainsNothing => self.counts.not_by_sample += 1,
                    Plain::GainsNothing => self.counts.not_by_whole += 1,
                }
                Carried::Plain(extent)
            }
        }
    }

    fn smaller(&mut self, data: &[u8]) -> Result<Vec<u8>, Plain> {
        if let Some(why) = packing::by_setting(self.compression) {
            return Err(why);
        }
        self.sample.clear();
        packing::sample(data.len()).for_each(|range| self.sample.extend_from_slice(&data[range]));
        let sample = std::mem::take(&mut self.sample);
        let sampled = self.compress(&sample, sample.len());
        let verdict = packing::by_sample(data.len(), sample.len(), sampled.map_or(usize::MAX, |()| self.out.len()));
        self.sample = sample;
        match verdict {
            Packing::Plain(why) => Err(why),
            Packing::Try { most } => match self.compress(data, most) {
                Some(()) => Ok(self.out.clone()),
                None => Err(Plain::GainsNothing),
            },
        }
    }

    /// Compresses `data` into `out`; `None` where it does not fit `most` bytes.
    fn compress(&mut self, data: &[u8], most: usize) -> Option<()> {
        if self.zstd.is_none() {
            self.zstd = Compressor::new(LEVEL).ok();
        }
        self.out.clear();
        self.out.reserve(most);
        self.zstd.as_mut()?.compress_to_buffer(data, &mut self.out).ok()?;
        (self.out.len() <= most).then_some(())
    }
}

/// Makes packed extents whole, one after the other.
#[derive(Default)]
pub struct Unpacker {
    zstd: Option<Decompressor<'static>>,
}

impl Unpacker {
    /// The request, what is packed in it made whole.
    pub fn whole(&mut self, request: DataRequest) -> Result<DataRequest, Refusal> {
        Ok(match request {
            DataRequest::FillPacked(packed) => DataRequest::Fill(self.unpack(&packed)?),
            DataRequest::ExtentPacked(packed) => DataRequest::Extent(self.unpack(&packed)?),
            other => other,
        })
    }

    /// The extent that `packed` was. What it claims to be long is checked before room is made for it, and no more than
    /// that is ever written; whether it has its hash is checked with every other extent.
    pub fn unpack(&mut self, packed: &Packed) -> Result<Extent, Refusal> {
        let length = packed.length as usize;
        let bad = |why: &str| {
            let message = format!("packed extent of disk {} at {} (+{length}) {why}", packed.disk, packed.offset);
            Refusal::new(Class::Refused, "bad_extent", message).field("extent").remedy("send it as one zstd frame")
        };
        if length == 0 || length > EXTENT_MAX {
            return Err(bad(&format!("does not have 1 to {EXTENT_MAX} bytes")));
        }
        if self.zstd.is_none() {
            self.zstd = Decompressor::new().ok();
        }
        let Some(zstd) = self.zstd.as_mut() else { return Err(bad("cannot be unpacked here: no memory")) };
        let mut data = Vec::with_capacity(length);
        match zstd.decompress_to_buffer(&packed.frame, &mut data) {
            Ok(_) if data.len() == length => {}
            Ok(_) => return Err(bad(&format!("has {} bytes", data.len()))),
            Err(error) => return Err(bad(&format!("is no zstd frame of that length: {error}"))),
        }
        Ok(Extent { disk: packed.disk, offset: packed.offset, content: Content::Data(data, packed.hash) })
    }
}

/// Unpacks one block of at most `most` bytes that is not an extent; `None` where it is none, or larger.
pub fn unpack_block(block: &[u8], most: usize) -> Option<Vec<u8>> {
    let mut plain = Vec::with_capacity(most);
    Decompressor::new().ok()?.decompress_to_buffer(block, &mut plain).ok()?;
    Some(plain)
}

/// A block as [`unpack_block`] reads it.
#[cfg(test)]
pub fn pack_block(plain: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(plain, LEVEL).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drive::image::extent;
    use crate::drive::image::test_disk::random_bytes;

    fn text(length: usize) -> Vec<u8> {
        (0u32..).flat_map(|line| format!("{line}: the same words in every line\n").into_bytes()).take(length).collect()
    }

    fn packed(packer: &mut Packer, data: Vec<u8>) -> Option<Packed> {
        match packer.pack(extent::data(3, 1 << 30, data)) {
            Carried::Packed(packed) => Some(packed),
            Carried::Plain(_) => None,
        }
    }

    #[test]
    fn what_gets_smaller_is_packed_and_comes_out_as_it_was() {
        let (mut packer, mut unpacker) = (Packer::new(Compression::Auto), Unpacker::default());
        for length in [1536, 4096, 65_536, 200_704, EXTENT_MAX] {
            let whole = extent::data(3, 1 << 30, text(length));
            let packed = packed(&mut packer, text(length)).unwrap();
            assert!(packed.frame.len() < length / 2, "{length}: {}", packed.frame.len());
            assert_eq!(unpacker.unpack(&packed).unwrap(), whole);
        }
        assert_eq!(packer.counts(), Counts { packed: 5, ..Counts::default() });
    }

    #[test]
    fn what_does_not_get_smaller_travels_as_it_is_and_costs_only_its_sample() {
        let mut packer = Packer::new(Compression::Auto);
        for length in [1536, 4096, EXTENT_MAX] {
            assert_eq!(packed(&mut packer, random_bytes(length, 7)), None);
        }
        assert_eq!(packer.counts(), Counts { not_by_sample: 3, ..Counts::default() });
        // A sample that promises too much: text where it is looked at, noise everywhere else.
        let mut mixed = random_bytes(EXTENT_MAX, 8);
        let words = text(EXTENT_MAX);
        packing::sample(EXTENT_MAX).for_each(|range| mixed[range.clone()].copy_from_slice(&words[range]));
        assert_eq!(packed(&mut packer, mixed), None);
        assert_eq!(packer.counts().not_by_whole, 1);
        assert_eq!(packed(&mut Packer::new(Compression::Off), text(4096)), None);
        let zero = Extent { disk: 0, offset: 0, content: Content::Zero(1 << 20) };
        assert_eq!(packer.pack(zero.clone()), Carried::Plain(zero));
    }

    #[test]
    fn a_frame_never_makes_more_than_an_extent_nor_other_than_it_claims() {
        let mut unpacker = Unpacker::default();
        let good = packed(&mut Packer::new(Compression::Auto), text(EXTENT_MAX)).unwrap();
        // 64 MiB of zeroes in a few kilobytes.
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], LEVEL).unwrap();
        let cut = good.frame[..good.frame.len() - 1].to_vec();
        for (length, frame) in [
            (EXTENT_MAX as u32, bomb.clone()),
            (64 << 20, bomb),
            (u32::MAX, good.frame.clone()),
            (0, good.frame.clone()),
            (good.length - 1, good.frame.clone()),
            (good.length, cut),
            (good.length, Vec::new()),
            (good.length, random_bytes(1000, 1)),
        ] {
            let refusal = unpacker.unpack(&Packed { length, frame, ..good.clone() }).unwrap_err();
            assert_eq!((refusal.code.as_str(), refusal.field.as_deref()), ("bad_extent", Some("extent")), "{refusal}");
        }
        unpacker.unpack(&good).unwrap();
    }
}
