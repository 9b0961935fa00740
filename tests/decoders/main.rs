//! Every decoder that reads what somebody else wrote, given its samples and a bounded number of mutations of them.
//!
//! The decoders are those of `fuzz/src/targets.rs`, which libFuzzer runs for longer (fuzz/README.md). A failure prints the
//! seed and keeps the bytes; put them into `fuzz/crashes/<target>/` with the mend.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod samples;
#[path = "../../fuzz/src/targets.rs"]
mod targets;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{SystemTime, UNIX_EPOCH};

use landfall_kit::rounds;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use targets::TARGETS;

/// The longest mutation: past it the bounds are what is tested, which they are elsewhere.
const LENGTH_MAX: usize = 64 * 1024;

/// Gives `bytes` to a decoder; what ends it is kept.
fn give((name, decode): &targets::Target, bytes: &[u8], seed: u64) {
    if catch_unwind(AssertUnwindSafe(|| decode(bytes))).is_err() {
        let kept = std::env::temp_dir().join(format!("landfall-{name}-{}", blake3::hash(bytes).to_hex()));
        fs::write(&kept, bytes).unwrap();
        panic!("{name} does not bear {} bytes (seed {seed}), which are in {}", bytes.len(), kept.display());
    }
}

#[test]
fn samples_and_what_once_ended_a_decoder_are_borne() {
    for target in TARGETS {
        let samples = samples::of(target.0);
        assert!(!samples.is_empty(), "{} has no sample", target.0);
        samples.iter().for_each(|sample| give(target, sample, 0));
        if std::env::var_os("LANDFALL_WRITE_CORPUS").is_some() {
            samples::write(target.0, &samples);
        }
    }
}

#[test]
fn mutations_of_samples_are_borne() {
    let seed = std::env::var("LANDFALL_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(now);
    println!("LANDFALL_SEED={seed}");
    let count = rounds(4_000, 2_000_000);
    for target in TARGETS {
        let samples = samples::of(target.0);
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        for _ in 0..count {
            let mut bytes = samples[random.random_range(0..samples.len())].clone();
            for _ in 0..random.random_range(1..=4) {
                mutate(&mut bytes, &samples, &mut random);
            }
            give(target, &bytes, seed);
        }
        println!("{}: {} samples, {count} mutations", target.0, samples.len());
    }
}

/// Another seed each time.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64
}

/// Changes `bytes` in one way.
fn mutate(bytes: &mut Vec<u8>, samples: &[Vec<u8>], random: &mut ChaCha8Rng) {
    const ODD: [u64; 12] =
        [0, 1, 0x7f, 0x80, 0xfa, 0xfb, 0xfc, 0xfd, 0xffff, u32::MAX as u64, i64::MAX as u64, u64::MAX];
    let at = if bytes.is_empty() { 0 } else { random.random_range(0..bytes.len()) };
    let rest = bytes.len() - at;
    match random.random_range(0..9) {
        0 if rest > 0 => bytes[at] ^= 1 << random.random_range(0..8),
        1 if rest > 0 => bytes[at] = random.random(),
        2 => {
            // A number that is odd in some width, in either order of bytes.
            let number = ODD[random.random_range(0..ODD.len())];
            let width = [1, 2, 4, 8][random.random_range(0..4)].min(rest);
            let number = if random.random() { number.to_le_bytes() } else { number.to_be_bytes() };
            bytes[at..at + width].copy_from_slice(&number[..width]);
        }
        3 => bytes.truncate(at),
        4 => {
            let end = at + random.random_range(0..=rest.min(64));
            bytes.drain(at..end);
        }
        5 => {
            let length = random.random_range(0..=rest.min(64));
            let copy = bytes[at..at + length].to_vec();
            bytes.splice(at..at, copy);
        }
        6 => {
            let other = &samples[random.random_range(0..samples.len())];
            let from = random.random_range(0..=other.len());
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
        7 => bytes.insert(at, random.random()),
        _ => bytes.extend((0..random.random_range(0..16)).map(|_| random.random::<u8>())),
    }
    bytes.truncate(LENGTH_MAX);
}
