//! The process's randomness, as a simulation's thread sees it: a stream that the seed decides.
//!
//! std (the keys of `HashMap`s) and every version of the getrandom crate ask the C library's `getrandom`. This binary
//! defines that symbol itself, so its own definition is found first. A thread that was never given a seed gets the
//! kernel's randomness as ever.

use std::cell::Cell;
use std::fs::File;
use std::io::Read;

thread_local! {
    /// The state of this thread's stream; `None` until it has a seed. Needs no destructor, so it works in any hour of a
    /// thread's life.
    static STREAM: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Gives this thread the stream of `seed`. To be called before anything else on the thread.
pub fn pin(seed: u64) {
    STREAM.set(Some(seed));
}

/// The next word of a stream: SplitMix64, which needs one word of state.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut word = *state;
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

fn fill(bytes: &mut [u8]) {
    match STREAM.get() {
        Some(mut state) => {
            for chunk in bytes.chunks_mut(8) {
                let word = next(&mut state).to_le_bytes();
                chunk.copy_from_slice(&word[..chunk.len()]);
            }
            STREAM.set(Some(state));
        }
        None => File::open("/dev/urandom").and_then(|mut device| device.read_exact(bytes)).expect("/dev/urandom"),
    }
}

/// The C library's function, in its place.
///
/// # Safety
///
/// As `getrandom(2)`: `buffer` has room for `length` bytes. A length of zero is asked with a pointer to nowhere.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
    if length > 0 {
        // SAFETY: the caller's promise above; the bytes are written before anything reads them.
        let bytes = unsafe {
            buffer.write_bytes(0, length);
            std::slice::from_raw_parts_mut(buffer, length)
        };
        fill(bytes);
    }
    isize::try_from(length).unwrap_or(-1)
}

#[test]
fn a_pinned_thread_has_the_stream_of_its_seed_and_another_has_the_kernels() {
    use std::hash::{BuildHasher, RandomState};
    let order = |seed: Option<u64>| {
        let thread = std::thread::spawn(move || {
            if let Some(seed) = seed {
                pin(seed);
            }
            RandomState::new().hash_one("a key of a map")
        });
        thread.join().unwrap()
    };
    assert_eq!(order(Some(1)), order(Some(1)));
    assert_ne!(order(Some(1)), order(Some(2)));
    assert_ne!(order(None), order(None));
}
