//! What happened lately on this agent, for people: the last thousand events, and those to come.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use landfall_proto::id::{NodeName, VmId};
use landfall_proto::seam::Clock;
use tokio::sync::broadcast;

use crate::decide::ration::Ration;
use crate::surface::event::{Event, RECENT_MAX, Severity};

/// Events that wait for one slow reader; past it the oldest are left out, which the reader sees by their ids.
const READER_QUEUE: usize = 256;

/// The most characters of a peer's name and of a reason in an event: both may come from the peer.
const TOLD_MAX: usize = 256;

/// The recent events and whoever follows them.
#[derive(Clone)]
pub struct Events {
    clock: Arc<dyn Clock>,
    kept: Arc<Mutex<Kept>>,
    followers: broadcast::Sender<Event>,
}

#[derive(Default)]
struct Kept {
    recent: VecDeque<Event>,
    last_id: u64,
    ration: Ration,
}

/// What an event is about and says, before it gets its number and time.
#[derive(Clone, Debug)]
pub struct Happening {
    severity: Severity,
    kind: &'static str,
    message: String,
    node: Option<NodeName>,
    vm: Option<VmId>,
    fields: BTreeMap<String, String>,
}

impl Happening {
    /// Something good to know.
    pub fn info(kind: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { severity: Severity::Info, kind, message, node: None, vm: None, fields: BTreeMap::new() }
    }

    /// Something that somebody should look at soon.
    pub fn warning(kind: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::info(kind, message) }
    }

    /// Something that somebody should look at now.
    pub fn critical(kind: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Critical, ..Self::info(kind, message) }
    }

    /// The same about `node`.
    #[must_use]
    pub fn node(mut self, node: &NodeName) -> Self {
        self.node = Some(node.clone());
        self
    }

    /// The same about `vm`.
    #[must_use]
    pub fn vm(mut self, vm: VmId) -> Self {
        self.vm = Some(vm);
        self
    }

    /// The same with one more fact.
    #[must_use]
    pub fn with(mut self, field: &str, value: &(impl ToString + ?Sized)) -> Self {
        self.fields.insert(field.to_owned(), value.to_string());
        self
    }
}

impl Events {
    /// An empty record.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, kept: Arc::default(), followers: broadcast::Sender::new(READER_QUEUE) }
    }

    /// Records what happened, and logs it.
    pub fn record(&self, happening: Happening) {
        let Happening { severity, kind, message, node, vm, fields } = happening;
        tracing::info!(?severity, kind, ?vm, ?fields, "{message}");
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.last_id += 1;
        let at = self.clock.wall().into();
        let event = Event { id: kept.last_id, at, severity, kind: kind.to_owned(), node, vm, message, fields };
        if kept.recent.len() >= RECENT_MAX as usize {
            kept.recent.pop_front();
        }
        kept.recent.push_back(event.clone());
        // Most of the time nobody follows, which is no error.
        drop(self.followers.send(event));
    }

    /// Records that `peer` was refused something, and why; `kind` is a stable word. How often that happens is in the peer's
    /// hand, so that only the first ones are told, and then one now and again with how many were left out.
    pub fn refuse(&self, kind: &'static str, peer: &str, why: &str) {
        let told = {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.ration.tell(kind, peer, self.clock.now())
        };
        let Some(left_out) = told else { return };
        let plain = |text: &str| text.chars().filter(|c| !c.is_control()).take(TOLD_MAX).collect::<String>();
        let (peer, why) = (plain(peer), plain(why));
        let mut happening = Happening::warning(kind, format!("{peer} was refused: {why}"));
        happening = happening.with("peer", &peer).with("why", &why);
        if left_out > 0 {
            happening = happening.with("left_out", &left_out);
        }
        self.record(happening);
    }

    /// The last `recent` events, oldest first, and those from now on, without a gap between.
    pub fn follow(&self, recent: usize) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let skip = kept.recent.len().saturating_sub(recent);
        (kept.recent.iter().skip(skip).cloned().collect(), self.followers.subscribe())
    }
}
