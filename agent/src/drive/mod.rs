//! Everything that does IO: sockets, disks, clocks. Decisions are made elsewhere.

pub mod api;
