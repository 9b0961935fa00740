//! The Landfall agent: the daemon of one node, as a library that other programs can embed, and the command line.

pub mod config;
pub mod drive;
pub mod guest;
pub mod vm_service;
