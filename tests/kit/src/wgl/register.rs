//! A register: one value that is read, written, and replaced where it is as expected.

use super::search::Model;

/// The model of a register, empty (0) at first.
#[derive(Clone, Copy, Debug)]
pub struct Register;

/// What a register is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterCall {
    /// The value.
    Read,
    /// A new value.
    Write(u64),
    /// A new value in place of an expected one.
    Replace(u64, u64),
}

/// What a register answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterAnswer {
    /// The value read.
    Value(u64),
    /// Written, or replaced.
    Done,
    /// Not replaced: another value was there.
    Refused,
}

impl Model for Register {
    type State = u64;
    type Call = RegisterCall;
    type Answer = RegisterAnswer;

    fn step(state: &u64, call: &RegisterCall, answer: Option<&RegisterAnswer>) -> Option<u64> {
        use RegisterAnswer::{Done, Refused, Value};
        match (*call, answer.copied()) {
            (RegisterCall::Read, Some(Value(value))) => (value == *state).then_some(*state),
            (RegisterCall::Read, None) => Some(*state),
            (RegisterCall::Write(value), Some(Done) | None) => Some(value),
            (RegisterCall::Replace(old, new), Some(Done)) => (old == *state).then_some(new),
            (RegisterCall::Replace(old, _), Some(Refused)) => (old != *state).then_some(*state),
            (RegisterCall::Replace(old, new), None) => Some(if old == *state { new } else { *state }),
            _ => None,
        }
    }
}
