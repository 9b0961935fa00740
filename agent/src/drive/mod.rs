//! Everything that touches the outside: disks, sockets, processes. Decisions are made elsewhere.

pub mod image;
pub mod replica;
