//! `landfall demo`: both clusters on this machine, with real processes, and the whole story told step by step.
//!
//! ```text
//! run -> Cast (folders, nodes, processes) + Stage (what is told) -> steps, in order -> everything ended and removed
//! ```
//!
//! It does to its agents only what a user could do: command lines (each is printed as it is run), questions to the local
//! API while it waits, signals to processes, and a folder that is moved. What a step claims it has looked at; the first
//! thing that is not as it should be ends the story with the value that was seen.

mod cast;
mod company;
mod node;
mod pace;
mod props;
mod stage;
mod steps;
mod story;
mod until;

use landfall_proto::{Class, Refusal};
use tokio::signal::unix::{SignalKind, signal};

use self::cast::Cast;
use self::pace::Pace;
use self::stage::Stage;
use self::story::Story;
use crate::cli::Demo;

/// Threads that run the story: it mostly waits.
const WORKERS: usize = 2;

/// Runs the demo; the answer is good only if every step held and nothing was left behind.
pub fn run(asked: &Demo) -> Result<(), Vec<Refusal>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build();
    let runtime = runtime.map_err(|error| {
        vec![Refusal::new(Class::Failed, "no_runtime", format!("the demo cannot start its threads: {error}"))]
    })?;
    runtime.block_on(perform(asked)).map_err(|refusal| vec![refusal])
}

async fn perform(asked: &Demo) -> Result<(), Refusal> {
    // Before anything is started, so that no signal finds something to leave behind.
    let stop = told_to_stop()?;
    let pace = Pace::of(asked);
    let cast = Cast::assemble(&pace)?;
    let story = Story::new(Stage::open(), cast, pace)?;
    let told = tokio::select! {
        told = steps::tell(&story) => told,
        () = stop => Err(Refusal::new(Class::Failed, "interrupted", "the demo was told to stop")),
    };
    if let Err(refusal) = &told {
        story.stage.failed(refusal);
        if refusal.code != "interrupted" {
            story.cast.tell_logs(&story.stage);
        }
    }
    let dismissed = story.cast.dismiss();
    if dismissed.is_ok() {
        story.stage.close(told.is_ok());
    }
    told.and(dismissed)
}

/// Done when the process is told to stop by a terminal or by whoever runs it.
fn told_to_stop() -> Result<impl Future<Output = ()>, Refusal> {
    let listen =
        |kind| signal(kind).map_err(|error| Refusal::new(Class::Failed, "no_signals", format!("signals: {error}")));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let (mut hangup, mut quit) = (listen(SignalKind::hangup())?, listen(SignalKind::quit())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
            _ = quit.recv() => {}
        }
    })
}
