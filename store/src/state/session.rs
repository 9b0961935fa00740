//! Client sessions: a request that comes twice gets its first answer, one too old to tell is refused, never executed.
//!
//! A session remembers its last answers by sequence, and the highest sequence that it has forgotten. Everything above
//! that which it does not remember was never executed, so the requests of one client may be under way together, as many
//! as answers are kept. When there are too many sessions the longest unused goes; a request of a session that is not
//! known is therefore taken only with a sequence that a new session can begin with.

use std::collections::BTreeMap;

use landfall_proto::id::{Position, RequestId};
use landfall_proto::model::Answer;
use landfall_proto::planted::{self, Bug};
use landfall_proto::{Class, Refusal};

use super::State;
use crate::limits;

/// One client's requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Session {
    /// The highest sequence whose answer was forgotten; this and lower ones are too old.
    pub forgotten: u64,
    /// The answers kept, by sequence.
    pub answers: BTreeMap<u64, Answer>,
    /// The last entry that used the session.
    pub used: Position,
}

impl State {
    /// Whether `request` was applied, and its answer is still kept.
    pub fn remembers(&self, request: RequestId) -> bool {
        self.sessions.get(&request.session).is_some_and(|session| session.answers.contains_key(&request.sequence))
    }

    /// The answer that `request` got before.
    pub(super) fn answered(&mut self, request: RequestId, position: Position) -> Option<Answer> {
        if planted::is(Bug::RequestRunsTwice) {
            return None;
        }
        let answer = self.sessions.get(&request.session)?.answers.get(&request.sequence)?.clone();
        if let Some(session) = self.sessions.edit(&request.session) {
            session.used = position;
        }
        Some(answer)
    }

    /// Refuses a request that may have been executed and forgotten.
    pub(super) fn check_session(&self, request: RequestId) -> Result<(), Refusal> {
        let fresh = match self.sessions.get(&request.session) {
            Some(session) => request.sequence > session.forgotten,
            None => (1..=limits::SESSION_ANSWERS as u64).contains(&request.sequence),
        };
        if fresh || planted::is(Bug::ForgottenRequestRuns) {
            return Ok(());
        }
        let message = format!("request {} of this session is too old: its answer is no longer kept", request.sequence);
        Err(Refusal::new(Class::Refused, Refusal::TOO_OLD, message)
            .field("request")
            .remedy("look whether it took effect; begin a new session to ask again"))
    }

    /// Keeps the answer of an executed request.
    pub(super) fn remember(&mut self, request: RequestId, position: Position, answer: &Answer) {
        if !self.sessions.contains(&request.session) {
            if self.sessions.len() >= limits::SESSIONS {
                let oldest = self.sessions.iter().min_by_key(|(_, session)| session.used).map(|(id, _)| *id);
                if let Some(oldest) = oldest {
                    self.sessions.take(&oldest);
                }
            }
            self.sessions.put(request.session, Session::default());
        }
        let Some(session) = self.sessions.edit(&request.session) else { return };
        session.used = position;
        session.answers.insert(request.sequence, answer.clone());
        while session.answers.len() > limits::SESSION_ANSWERS {
            if let Some((sequence, _)) = session.answers.pop_first() {
                session.forgotten = sequence;
            }
        }
    }
}
