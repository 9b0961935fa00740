//! How many senders of this node transfer at once: `maximum_active_transfers`, as it stands at the moment.
//!
//! A change set may take long: the line is slow, or the VM's own limit is low. As many of them as there are places would keep
//! every other VM from its cycles, so that who has had his turn makes room for whoever waits, and goes on in turn.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use landfall_proto::seam::{Clock, Time};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long a transfer keeps its place while others wait for one: long enough to fill a line, and short enough that even a
/// dozen that wait are all heard well within the shortest interval, 30 s.
const TURN: Duration = Duration::from_secs(2);

/// The places for transfers.
#[derive(Clone, Debug)]
pub struct Transfers {
    places: Arc<Semaphore>,
    granted: Arc<Mutex<usize>>,
}

impl Transfers {
    /// `limit` places.
    pub fn new(limit: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(limit)), granted: Arc::new(Mutex::new(limit)) }
    }

    /// Makes it `limit` places. Transfers under way go on; fewer places take effect as they end.
    pub fn set_limit(&self, limit: usize) {
        let mut granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        if limit > *granted {
            self.places.add_permits(limit - *granted);
            *granted = limit;
        } else {
            // Only free places can be withdrawn now; the next call withdraws what has become free meanwhile.
            *granted -= self.places.forget_permits(*granted - limit);
        }
    }

    /// Waits for a place, which is free again when the permit is dropped.
    pub async fn enter(&self) -> Option<OwnedSemaphorePermit> {
        // The semaphore is never closed.
        Arc::clone(&self.places).acquire_owned().await.ok()
    }

    /// Waits for a place that is given up in turn.
    pub async fn turn(&self, clock: Arc<dyn Clock>) -> Turn {
        let place = self.enter().await;
        Turn { transfers: self.clone(), place, since: clock.now(), clock }
    }
}

/// A place that is given up in turn.
#[derive(Debug)]
pub struct Turn {
    transfers: Transfers,
    place: Option<OwnedSemaphorePermit>,
    since: Time,
    clock: Arc<dyn Clock>,
}

impl Turn {
    /// Lets those go first who wait, where this one's time is over; without anybody who waits it goes on at once.
    pub async fn renew(&mut self) {
        if self.place.is_some() && self.clock.now().since(self.since) < TURN {
            return;
        }
        // Places are given in the order in which they were asked for.
        self.place = None;
        self.place = self.transfers.enter().await;
        self.since = self.clock.now();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn fewer_places_take_effect_as_transfers_end() {
        let transfers = Transfers::new(2);
        let (first, second) = (transfers.enter().await, transfers.enter().await);
        transfers.set_limit(1);
        drop(first);
        transfers.set_limit(1);
        assert_eq!(transfers.places.available_permits(), 0, "one transfer is still under way, and one is the limit");
        drop(second);
        assert_eq!(transfers.places.available_permits(), 1);
        transfers.set_limit(3);
        assert_eq!(transfers.places.available_permits(), 3);
    }

    /// A clock that is set by hand.
    #[derive(Debug, Default)]
    struct ByHand(Mutex<u64>);

    impl Clock for ByHand {
        fn now(&self) -> Time {
            Time(Duration::from_secs(*self.0.lock().unwrap()))
        }

        fn wall(&self) -> landfall_proto::id::UnixMillis {
            landfall_proto::id::UnixMillis(0)
        }
    }

    #[tokio::test]
    async fn a_slow_transfer_makes_room_for_those_that_wait_and_goes_on_in_its_turn() {
        let (transfers, clock) = (Transfers::new(1), Arc::new(ByHand::default()));
        let mut slow = transfers.turn(clock.clone()).await;
        let mut waiting = Box::pin(transfers.turn(clock.clone()));
        assert!((&mut waiting).now_or_never().is_none());
        *clock.0.lock().unwrap() = 1;
        slow.renew().await;
        assert!((&mut waiting).now_or_never().is_none(), "its turn is not over");
        *clock.0.lock().unwrap() = 2;
        let mut again = Box::pin(slow.renew());
        assert!((&mut again).now_or_never().is_none(), "somebody waits");
        let other = waiting.await;
        drop(other);
        again.await;
        assert_eq!(transfers.places.available_permits(), 0, "it has its place again");
        *clock.0.lock().unwrap() = 9;
        slow.renew().await;
        assert_eq!(transfers.places.available_permits(), 0, "nobody waits: it goes on");
    }
}
