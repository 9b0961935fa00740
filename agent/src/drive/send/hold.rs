//! What an operator holds a sender back by or asks it for, and what it counts of its cycles.

use std::time::Duration;

use landfall_proto::message::control::{Compared, InFlight};
use landfall_proto::message::data::Tip;
use landfall_proto::seam::Time;
use landfall_proto::{Class, Refusal};
use tokio::time::sleep;

use super::{Line, Sender};
use crate::decide::cycle::Cycle;
use crate::decide::disk_size::DISK_GROWING;
use crate::decide::health::PAUSED_AT_REPLICA;
use crate::decide::resync::{self, Indexes, RESYNC_REQUIRED};
use crate::decide::window::Ended;
use crate::drive::events::Happening;
use crate::drive::send::capture::blocking;
use crate::drive::send::session::{Session, Trouble};

/// How often a first copy that begins later looks at the clock: a wall clock may be set meanwhile.
const CLOCK_LOOK: Duration = Duration::from_secs(1);

/// How a cycle began.
pub(super) struct Begun {
    due: Time,
    missed: u64,
    sent_bytes: u64,
    first: bool,
}

/// Whether it is an operator's or the window's business that nothing is sent, or a disk's that has grown, and no failure.
pub(super) fn is_held(trouble: &Trouble) -> bool {
    match trouble {
        Trouble::Refused(refusal) => refusal.code == PAUSED_AT_REPLICA,
        Trouble::Here(refusal) => [RESYNC_REQUIRED, DISK_GROWING].contains(&refusal.code.as_str()),
        _ => false,
    }
}

impl Sender {
    /// Waits as long as an operator holds the VM back: for ever where it is paused, since to go on is a new instruction,
    /// with which a sender begins anew.
    pub(super) async fn hold_back(&self, line: &Line) {
        if self.primary.paused.is_some() {
            self.activity("paused");
            std::future::pending::<()>().await;
        }
        let first = line.record.points.is_empty();
        let Some(starts_at) = self.primary.starts_at.filter(|_| first) else { return };
        self.activity("scheduled");
        while self.node.outside.clock.wall() < starts_at {
            sleep(CLOCK_LOOK).await;
        }
    }

    /// Forgets what the holder has, where an operator asked for a comparison that was not made yet.
    pub(super) async fn forget_if_asked(&self, line: &mut Line) {
        if !self.primary.resync.is_some_and(|asked| self.tally.is_to_resync(asked)) {
            return;
        }
        line.record.acknowledged = None;
        // Where it cannot be removed, the next capture replaces it.
        drop(self.drop_flight(line).await);
    }

    /// Notes why both sides are about to be compared; refused as long as that waits for its window.
    pub(super) fn note_comparison(&self, session: &Session, indexes: Indexes) -> Result<(), Refusal> {
        let (acknowledged, new_home) = {
            let figures = self.figures.borrow();
            let acknowledged = figures.acknowledged.as_ref();
            let sent_last = figures.unconfirmed.as_ref().or(acknowledged);
            let elsewhere = |receiver| sent_last.is_some_and(|point| !point.copies.contains(receiver));
            let tip = acknowledged.map(|point| Tip { sequence: point.sequence, root: point.root });
            (tip, figures.receiver.as_ref().is_some_and(elsewhere))
        };
        let asked = self.primary.resync.is_some_and(|asked| self.tally.is_to_resync(asked));
        let (newest, comparable, listed) = (session.newest, session.comparable, session.lists_points());
        let because = resync::because(asked, acknowledged, newest, comparable, new_home, listed, indexes);
        let Some(because) = because else { return Ok(()) };
        let now = self.node.outside.clock.wall();
        let window = self.node.state().resolved_settings().auto_resync;
        let (name, why) = (&self.primary.vm.name, because.sentence());
        if because.waits() && !resync::resync_due(now, window) {
            let message = format!("both sides of {name} must be compared: {why}; that waits for auto_resync={window}");
            return Err(Refusal::new(Class::Refused, RESYNC_REQUIRED, message)
                .remedy(format!("begin now: landfall vm resync {}", self.primary.vm.id)));
        }
        let compared = Compared { code: because.code().to_owned(), message: why.to_owned(), at: now };
        self.figures.send_modify(|figures| figures.compared = Some(compared));
        let told = format!("both sides of {name} are compared: {why}");
        let event = Happening::info("resync", told).vm(self.primary.vm.id).node(&self.node.name);
        self.node.events.record(event.with("because", because.code()));
        Ok(())
    }

    /// Shows the change set that is about to be sent.
    pub(super) async fn note_flight(&self, line: &Line) {
        let Some(flight) = &line.flight else { return };
        let spool = self.workshop.spool();
        let length = blocking(move || Ok(std::fs::metadata(&spool).map_or(0, |found| found.len())));
        let bytes = length.await.unwrap_or_default();
        let shown = InFlight { sequence: flight.tip.sequence, taken_at: flight.taken_at, bytes };
        self.figures.send_modify(|figures| figures.in_flight = Some(shown));
    }

    pub(super) fn begin_count(&self, line: &Line, pace: &Cycle) -> Begun {
        let sent_bytes = self.tally.traffic().sent_bytes;
        Begun { due: pace.due(), missed: pace.missed(), sent_bytes, first: line.record.points.is_empty() }
    }

    /// Counts a cycle that has ended. The first copy takes as long as it takes: it is none.
    pub(super) async fn count(&self, begun: Begun, pace: &Cycle) {
        let missed = pace.missed().saturating_sub(begun.missed);
        let bytes = self.tally.traffic().sent_bytes.saturating_sub(begun.sent_bytes);
        let latency = self.node.outside.clock.now().since(begun.due);
        if !begun.first {
            self.tally.ended(&Ended { missed, bytes, latency });
        }
        self.tally.resynced(self.primary.resync);
        self.tally.save(&self.workshop.folder).await;
    }
}
