//! Notices to other clusters, sent beside the work that caused them: whoever gives one out never waits for a peer.

use std::sync::Arc;

use landfall_proto::planted::{self, Bug};
use tokio::sync::Semaphore;

/// Notices under way at once. Each may wait some seconds for every node of a peer that does not answer; one that would
/// be too many is not sent, which is no harm: the primary asks the CAP.
pub const NOTICES_MAX: usize = 64;

/// The notices under way.
#[derive(Clone, Debug)]
pub struct Notices(Arc<Semaphore>);

impl Default for Notices {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(NOTICES_MAX)))
    }
}

impl Notices {
    /// Sends a notice beside whatever the caller does next; whether there was room for it.
    pub fn send(&self, notice: impl Future<Output = ()> + Send + 'static) -> bool {
        if planted::is(Bug::NoticeDropped) {
            return true;
        }
        let Ok(place) = Arc::clone(&self.0).try_acquire_owned() else { return false };
        tokio::spawn(async move {
            notice.await;
            drop(place);
        });
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn whoever_gives_a_notice_out_waits_for_no_peer_and_no_more_than_the_bound_are_under_way() {
        let notices = Notices::default();
        let mut answers = Vec::new();
        for _ in 0..NOTICES_MAX {
            let (answer, answered) = oneshot::channel::<()>();
            answers.push(answer);
            assert!(notices.send(async move { drop(answered.await) }), "a peer that does not answer holds nobody up");
        }
        assert!(!notices.send(async {}));
        drop(answers.pop());
        let freed = timeout(Duration::from_secs(10), notices.0.acquire()).await.unwrap().unwrap();
        drop(freed);
        assert!(notices.send(async {}));
    }
}
