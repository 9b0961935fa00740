//! Everything that touches the outside: files, processes, sockets. What is to be done is decided elsewhere.

pub mod attach;
pub mod directory;
