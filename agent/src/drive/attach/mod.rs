//! How a VM service and an agent hold together: two processes on one node, either of which may be restarted alone.
//!
//! ```text
//!   agent                                        VM service
//!   Remote ------- HTTP over its socket ------->  serve -> VmService
//!   local API <--- settings, status ------------  Link (over an AgentLink)
//! ```
//!
//! The VM service attaches itself to the agent, so an agent that restarts finds it again; [`Spawn`] starts one where
//! none answers. A program that embeds an agent can run the same [`Link`] in its own process.

mod http;
mod in_process;
mod link;
mod process;
mod remote;
mod serve;
mod socket_link;
mod spawn;
mod sse;
pub mod wire;

#[cfg(test)]
mod tests;

pub use link::{AgentLink, Feed, Link};
pub use process::run;
pub use remote::Remote;
pub use serve::{listen, serve};
pub use socket_link::SocketLink;
pub use spawn::{Spawn, Spawned};
