//! How many senders of this node transfer at once: `maximum_active_transfers`, as it stands at the moment.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

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
}

#[cfg(test)]
mod tests {
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
}
