//! The runtime that openraft runs on: tokio, with election timeouts out of this node's own randomness.
//!
//! openraft asks for random numbers through a function without arguments, so the source travels with its tasks: it is
//! set around the call that starts openraft, and every task that such a task starts inherits it. Two nodes in one
//! process, as in a simulator, thus draw from their own sources in an order that replays.

use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use landfall_proto::seam::Random;
use openraft::{AsyncRuntime, OptionalSend, TokioInstant, TokioRuntime};

tokio::task_local! {
    static RANDOM: Arc<dyn Random>;
}

/// Runs `future`, and every task that openraft starts in it, with `random` as the source of randomness.
pub(super) async fn with_random<F: Future>(random: Arc<dyn Random>, future: F) -> F::Output {
    RANDOM.scope(random, future).await
}

/// tokio with randomness of our own.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct NodeRuntime;

/// Randomness as openraft takes it.
pub struct NodeRandom(Option<Arc<dyn Random>>);

impl rand_core::RngCore for NodeRandom {
    fn next_u32(&mut self) -> u32 {
        self.next_u64() as u32
    }

    fn next_u64(&mut self) -> u64 {
        match &self.0 {
            Some(random) => random.u64(),
            // Not within a task of openraft's, where nothing that must replay asks.
            None => RandomState::new().build_hasher().finish(),
        }
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let number = self.next_u64().to_le_bytes();
            chunk.copy_from_slice(&number[..chunk.len()]);
        }
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), rand_core::Error> {
        self.fill_bytes(bytes);
        Ok(())
    }
}

impl AsyncRuntime for NodeRuntime {
    type JoinError = tokio::task::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = tokio::task::JoinHandle<T>;
    type Sleep = tokio::time::Sleep;
    type Instant = TokioInstant;
    type TimeoutError = tokio::time::error::Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = tokio::time::Timeout<T>;
    type ThreadLocalRng = NodeRandom;
    type OneshotSender<T: OptionalSend> = <TokioRuntime as AsyncRuntime>::OneshotSender<T>;
    type OneshotReceiver<T: OptionalSend> = <TokioRuntime as AsyncRuntime>::OneshotReceiver<T>;
    type OneshotReceiverError = <TokioRuntime as AsyncRuntime>::OneshotReceiverError;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        match RANDOM.try_with(Arc::clone) {
            Ok(random) => tokio::spawn(RANDOM.scope(random, future)),
            Err(_) => tokio::spawn(future),
        }
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        tokio::time::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        tokio::time::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        tokio::time::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F> {
        tokio::time::timeout_at(deadline, future)
    }

    fn is_panic(error: &Self::JoinError) -> bool {
        error.is_panic()
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        NodeRandom(RANDOM.try_with(Arc::clone).ok())
    }

    fn oneshot<T: OptionalSend>() -> (Self::OneshotSender<T>, Self::OneshotReceiver<T>) {
        TokioRuntime::oneshot()
    }
}
