//! The nouns of the command line: each its verbs, what they ask, and how the answers read.

pub(super) mod authorization;
pub(super) mod broker;
pub(super) mod cluster;
pub(super) mod config;
pub(super) mod doctor;
pub(super) mod event;
pub(super) mod failover;
pub(super) mod network;
pub(super) mod node;
pub(super) mod peer;
pub(super) mod point;
pub(super) mod seed;
pub(super) mod settings;
pub(super) mod token;
pub(super) mod vm;
