//! Randomness that a seed decides.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use landfall_proto::seam::Random;
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha12Rng;

/// A stream of randomness for the product's `Random`: the same seed and the same calls give the same bytes.
pub struct SeededRandom(Mutex<ChaCha12Rng>);

impl SeededRandom {
    /// The stream of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(ChaCha12Rng::seed_from_u64(seed)))
    }

    /// The stream of one node (or part of one) within the run `seed`; differs for every name.
    pub fn named(seed: u64, name: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes()).update(name.as_bytes());
        Self(Mutex::new(ChaCha12Rng::from_seed(*hasher.finalize().as_bytes())))
    }

    /// The next `N` bytes.
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        Random::fill(self, &mut bytes);
        bytes
    }
}

impl Random for SeededRandom {
    fn fill(&self, bytes: &mut [u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).fill_bytes(bytes);
    }
}

impl fmt::Debug for SeededRandom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SeededRandom")
    }
}
