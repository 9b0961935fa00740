//! What Landfall's agents and primaries say to one another: identities, messages, framing, TLS and QUIC.
//!
//! Nothing here decides anything: the store decides what is committed, the agent what is done.

pub mod alpn;
pub mod authority;
pub mod calls;
pub mod certificate;
mod chain;
pub mod client;
pub mod close;
pub mod codec;
pub mod endpoint;
pub mod frame;
pub mod id;
pub mod invitation;
pub mod limits;
pub mod machine;
pub mod message;
pub mod model;
pub mod planted;
pub mod refusal;
pub mod seam;
pub mod succession;
pub mod tls;
mod transport;
pub mod trust;
pub mod verb;

pub use refusal::{Class, Refusal};
