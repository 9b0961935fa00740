//! Everything that touches the outside: disks, sockets, processes. Decisions are made in `decide`.

pub mod api;
pub mod broker;
pub mod control;
pub mod enrolment;
pub mod events;
pub mod gossip;
pub mod group;
pub mod image;
pub mod join;
pub mod loss;
pub mod members;
pub mod node;
pub mod operations;
pub mod owner;
pub mod peers;
pub mod propose;
pub mod raft_wire;
pub mod receive;
pub mod replica;
pub mod replicas;
pub mod send;
pub mod senders;
pub mod serve;
pub mod sight;
pub mod vm_side;
