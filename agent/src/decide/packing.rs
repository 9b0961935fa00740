//! Whether an extent travels compressed: by a sample of it, so that what does not get smaller costs next to nothing.

use std::ops::Range;

use landfall_store::settings::Compression;

/// The sample of a short extent at least: below it the frame's own bytes hide a gain.
const SAMPLE_LEAST: usize = 1024;

/// The sample of the longest extent: a thirty-second of it, which costs a few per cent of hashing it.
const SAMPLE_MOST: usize = 16 * 1024;

/// The part of an extent that is looked at.
const SAMPLE_SHARE: usize = 32;

/// One piece of a sample: it is taken from several places, since a disk's content changes its kind within an extent.
const PIECE: usize = 4 * 1024;

/// Why an extent travels as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plain {
    /// The setting `compression` is `off`.
    Off,
    /// The sample got smaller by less than an eighth.
    SampleGainsNothing,
    /// The sample promised more than the whole kept: it got smaller by less than a sixteenth.
    GainsNothing,
}

/// What to do with an extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// Compress it; send what comes out where it is at most so many bytes.
    Try {
        /// The most bytes that are worth it.
        most: usize,
    },
    /// Send it as it is.
    Plain(Plain),
}

/// The places of the sample of an extent of `length` bytes: spread over all of it, in order, none overlapping.
pub fn sample(length: usize) -> impl Iterator<Item = Range<usize>> {
    let total = (length / SAMPLE_SHARE).clamp(SAMPLE_LEAST, SAMPLE_MOST).min(length);
    let pieces = total.div_ceil(PIECE).max(1);
    let (piece, stride) = (total / pieces, length / pieces);
    (0..pieces).map(move |number| number * stride..number * stride + piece)
}

/// Whether to compress an extent of `length` bytes whose sample of `sampled` bytes became `packed` ones.
pub fn by_sample(length: usize, sampled: usize, packed: usize) -> Packing {
    if packed.saturating_mul(8) > sampled.saturating_mul(7) {
        return Packing::Plain(Plain::SampleGainsNothing);
    }
    Packing::Try { most: length - length / 16 }
}

/// What the setting alone says: `None` where the sample is to decide.
pub fn by_setting(compression: Compression) -> Option<Plain> {
    match compression {
        Compression::Off => Some(Plain::Off),
        Compression::Auto => None,
    }
}

#[cfg(test)]
mod tests {
    use landfall_proto::message::data::EXTENT_MAX;

    use super::*;

    #[test]
    fn a_sample_is_spread_over_the_extent_and_small_beside_it() {
        for length in [1, 512, 1536, 4096, 8192, 65_536, 200_000, 300_001, EXTENT_MAX] {
            let ranges: Vec<_> = sample(length).collect();
            assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start), "{length}: {ranges:?}");
            assert!(ranges.last().unwrap().end <= length, "{length}: {ranges:?}");
            let total: usize = ranges.iter().map(ExactSizeIterator::len).sum();
            let most = if length <= SAMPLE_LEAST { length } else { (length / 2).max(SAMPLE_LEAST) };
            assert!(total > 0 && total <= most && total <= SAMPLE_MOST, "{length}: {total}");
        }
        let longest: Vec<_> = sample(EXTENT_MAX).collect();
        assert_eq!((longest.len(), longest[3].start), (4, EXTENT_MAX / 4 * 3));
    }

    #[test]
    fn only_what_gets_smaller_by_an_eighth_is_tried_and_by_a_sixteenth_sent() {
        assert_eq!(by_sample(65_536, 1024, 896), Packing::Try { most: 61_440 });
        assert_eq!(by_sample(65_536, 1024, 897), Packing::Plain(Plain::SampleGainsNothing));
        assert_eq!(by_setting(Compression::Off), Some(Plain::Off));
        assert_eq!(by_setting(Compression::Auto), None);
    }
}
