//! Whether a history of calls is linearizable: whether one order of them, in which no call comes before one that had
//! ended when it began, explains every answer.
//!
//! The method is Wing and Gong's search with Lowe's memory of configurations already seen ("Testing for
//! linearizability", 2017). Its cost grows with the calls that overlap, so check one key at a time ([`check_keys`]) with at
//! most about eight clients a key, and write unique values.
//!
//! A call whose answer nobody saw ([`Entry::answer`] is `None`) may have taken effect at any time after it began, or
//! never: unknown is not failed. Each such call that changes the state can double the work, so a test keeps those of a
//! key under about ten.

mod history;
mod register;
mod search;

pub use history::{History, Ticket};
pub use register::{Register, RegisterAnswer, RegisterCall};
pub use search::{Entry, Model, Verdict, check, check_keys};

#[cfg(test)]
mod tests;
