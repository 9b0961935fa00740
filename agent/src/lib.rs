//! The Landfall agent: the daemon of one node, as a library that other programs can embed, and the command line.

pub mod agent;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod decide;
pub mod demo;
pub mod drive;
pub mod guest;
pub mod seams;
pub mod surface;
pub mod vm_service;

pub use agent::Agent;
pub use seams::Seams;
