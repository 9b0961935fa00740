//! How a VM service and an agent hold together: two processes on one node, either of which may be restarted alone.

pub mod wire;
