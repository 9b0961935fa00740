//! How many older points a replica keeps.

use landfall_proto::Refusal;
use serde::{Deserialize, Serialize};

/// Older points to keep beside the newest, 0 to 24 (Hyper-V: RecoveryHistory).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct RecoveryPoints(u8);

impl RecoveryPoints {
    /// The most: a chain of more layers reads three times slower than its base.
    pub const MAX: u8 = 24;

    /// The number.
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl TryFrom<u64> for RecoveryPoints {
    type Error = Refusal;
    fn try_from(points: u64) -> Result<Self, Refusal> {
        match u8::try_from(points) {
            Ok(points @ 0..=Self::MAX) => Ok(Self(points)),
            _ => Err(Refusal::invalid("recovery_points", &points.to_string(), "keep from 0 to 24 older points")),
        }
    }
}

impl From<RecoveryPoints> for u64 {
    fn from(points: RecoveryPoints) -> Self {
        points.0.into()
    }
}
