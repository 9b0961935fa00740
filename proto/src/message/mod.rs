//! The messages of each protocol, one file an ALPN. Encoded by [`crate::codec`], framed by [`crate::frame`].
//!
//! Every request is one bidirectional stream: one request frame, one answer frame, except where the file says so.

pub mod broker;
pub mod ca;
pub mod control;
mod cycle;
pub mod data;
pub mod difference;
pub mod faults;
pub mod join;
pub mod leaves;
pub mod pass;
pub mod point;
pub mod traffic;
