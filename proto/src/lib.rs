//! What Landfall's agents and primaries say to one another: identities, messages, framing, TLS and QUIC.
//!
//! Nothing here decides anything: the store decides what is committed, the agent what is done.

pub mod codec;
pub mod id;
pub mod message;
pub mod model;
pub mod refusal;
pub mod seam;

pub use refusal::{Class, Refusal};
