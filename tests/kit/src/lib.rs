//! The harness of Landfall's tests.
//!
//! - [`sim`]: real code in virtual time, over a network that a seed decides.
//! - [`power`]: a disk that forgets what was not synced when its power is cut.
//! - [`process`]: real agents, their VM services and guests, started, stopped, killed and cleaned up.
//! - [`wgl`]: whether a history of calls is linearizable.
//! - [`table`]: figures beside their floors.
//!
//! A harness reports a broken run by failing the test that uses it, so its functions panic with what they saw; nothing
//! of this is part of the product.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a harness fails a test by panicking; it is never linked into the product"
)]

pub mod power;
pub mod process;
mod rounds;
pub mod sim;
pub mod table;
pub mod wgl;

pub use rounds::rounds;
