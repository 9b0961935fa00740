//! The local API: HTTP/JSON over a unix socket, for the command line and for a VM service.
//!
//! [`LocalSocket::bind`] takes the socket for as long as the agent lives; [`serve`] answers on it until it is told to
//! stop. Each route is one call of [`crate::surface::Operations`]; nothing is decided here. Every failure has the same
//! form, whatever it is: `{"error": {class, code, message, field, remedy}}`, under an HTTP status that follows its class.
//!
//! ```text
//! connection -> slot (limits) -> request -> slot -> a task of its own -> Operations -> JSON
//!                                        -> feed slot -> server-sent events until either side ends
//! ```
//!
//! A request runs in a task of its own, so that a caller who hangs up leaves nothing half done, and a panic costs one
//! answer.

mod answer;
mod ask;
mod feed;
mod limits;
mod routes;
mod server;
mod socket;

pub use limits::KEEP_ALIVE;
pub use server::serve;
pub use socket::LocalSocket;

#[cfg(test)]
mod tests;
