//! What a simulator needs around the real code: virtual time, a network, clocks, randomness and TLS that a seed decides.
//!
//! [`run`] gives a current-thread runtime whose clock stands still while anything can run and jumps to the next timer
//! otherwise, so that minutes of a cluster's life take milliseconds. [`SimNet`] is the network between nodes; each node's
//! own end is a [`SimNode`], which is the product's `Net`. The same seeds give the same bytes on the wire, at the same
//! virtual times: [`Trace`] proves it.
//!
//! # What must be pinned for that
//!
//! - TLS: [`seeded_crypto`], Ed25519 certificates (an ECDSA signature takes a nonce of its own, and its length varies),
//!   and a rustls `TimeProvider` that reads [`SimClock`].
//! - quinn: the endpoint's `rng_seed`, reset key and connection id generator, the client's `initial_dst_cid_provider` and
//!   the server's token key, all drawn from [`SeededRandom`]. The generator must be one of your own: those of quinn take
//!   part of each id from the system even where their key is given.
//! - Decisions: no iteration over `HashMap`, no `rand::rng()`.
//!
//! # What may still vary
//!
//! Tokio has a random generator of its own: it picks the branch at which `select!` without `biased` starts to poll, and
//! in which order a few synchronization types wake. It can be seeded (`Builder::rng_seed`) only in builds with
//! `--cfg tokio_unstable`, which this workspace does not use. Code that is to replay byte for byte therefore writes
//! `select! { biased; .. }`. Threads (`spawn_blocking`, file IO of `tokio::fs`) end in an order that no seed decides, and
//! real time passes while they run.

mod clock;
mod crypto;
mod net;
mod random;
mod share;
mod socket;
mod trace;

pub use clock::{SimClock, WALL_START};
pub use crypto::seeded_crypto;
pub use net::{SimNet, SimNode, SimRuntime, Weather};
pub use random::SeededRandom;
pub use share::Share;
pub use trace::{Datagram, Fate, Trace};

/// Runs `future` to its end in virtual time, on one thread.
///
/// Tasks that it spawned and did not wait for are dropped at the end.
pub fn run<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without IO needs nothing that can be missing")
        .block_on(future)
}

#[cfg(test)]
mod tests;
