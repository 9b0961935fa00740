//! How often a test repeats itself.

/// `short` rounds, or `long` where `LANDFALL_LONG` is set.
pub fn rounds(short: u64, long: u64) -> u64 {
    if std::env::var_os("LANDFALL_LONG").is_some() { long } else { short }
}
