//! The demo (being written).
use crate::cli::Demo;
use landfall_proto::{Class, Refusal};

/// Runs the demo.
pub fn run(_asked: &Demo) -> Result<(), Vec<Refusal>> {
    Err(vec![Refusal::new(Class::Failed, "comes_later", "the demo is being written")])
}
