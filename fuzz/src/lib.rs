//! The decoders, for libFuzzer: see README.md. Stable builds and the workspace know nothing of this package.

pub mod targets;

/// Gives `bytes` to the decoder called `name`.
pub fn run(name: &str, bytes: &[u8]) {
    for (called, decode) in targets::TARGETS {
        if *called == name {
            decode(bytes);
        }
    }
}
