//! One command's talk with an agent: ask, wait, print.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use hyper::Method;
use landfall_proto::{Class, Refusal};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::client::{Answer, Client, Feed, Message, Patience};
use super::command::Format;
use super::console::Console;
use super::table::Shown;
use crate::surface::WaitSeconds;

/// How a command ended early.
#[derive(Debug)]
pub(super) enum Ended {
    /// With these faults.
    Failed(Vec<Refusal>),
    /// Nobody reads its output any more.
    OutputClosed,
    /// It has done what it was asked, and what it printed is no good news.
    Found,
}

impl From<Refusal> for Ended {
    fn from(refusal: Refusal) -> Self {
        Self::Failed(vec![refusal])
    }
}

impl From<Vec<Refusal>> for Ended {
    fn from(faults: Vec<Refusal>) -> Self {
        Self::Failed(faults)
    }
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::OutputClosed;
        }
        Refusal::new(Class::Failed, "no_output", format!("standard output cannot be written: {error}")).into()
    }
}

/// One command's talk with an agent.
#[derive(Debug)]
pub(super) struct Session<'a> {
    client: Client,
    format: Format,
    console: &'a mut Console,
}

impl<'a> Session<'a> {
    pub(super) fn new(socket: PathBuf, format: Format, console: &'a mut Console) -> Self {
        Self { client: Client::new(socket), format, console }
    }

    /// The streams.
    pub(super) fn console(&mut self) -> &mut Console {
        self.console
    }

    /// Reads `path` and prints it.
    pub(super) async fn read<T: DeserializeOwned + Shown>(&mut self, path: &str) -> Result<(), Ended> {
        let answer = self.client.send(Method::GET, path, None::<&()>, Patience::Quick).await?;
        self.print::<T>(&answer)
    }

    /// Asks for a change; `doing` is shown to a person who waits for it.
    pub(super) async fn ask<B: Serialize>(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&B>,
        wait: Option<WaitSeconds>,
        doing: &str,
    ) -> Result<Answer, Ended> {
        let patience = wait.map_or(Patience::Quick, |wait| Patience::Waiting(wait.duration()));
        self.attend(method, path, body, patience, doing).await
    }

    /// Asks for work that takes as long as it takes.
    pub(super) async fn ask_endlessly<B: Serialize>(
        &mut self,
        method: Method,
        path: &str,
        body: &B,
        doing: &str,
    ) -> Result<Answer, Ended> {
        self.attend(method, path, Some(body), Patience::Endless, doing).await
    }

    async fn attend<B: Serialize>(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&B>,
        patience: Patience,
        doing: &str,
    ) -> Result<Answer, Ended> {
        let asked = self.client.send(method, path, body, patience);
        Ok(accompany(asked, self.console, doing).await?)
    }

    /// Prints an answer: as it came, or as tables.
    pub(super) fn print<T: DeserializeOwned + Shown>(&mut self, answer: &Answer) -> Result<(), Ended> {
        match self.format {
            Format::Json => Ok(self.console.data(&answer.line())?),
            Format::Table => {
                let text = answer.shape::<T>()?.text();
                Ok(self.console.data(text.as_bytes())?)
            }
        }
    }

    /// Opens an event stream.
    pub(super) async fn feed(&mut self, path: &str) -> Result<Feed, Ended> {
        Ok(self.client.feed(path).await?)
    }

    /// Prints one event: its JSON as it came, or as a line of text.
    pub(super) fn print_event<T: DeserializeOwned>(
        &mut self,
        message: &Message,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), Ended> {
        let line = match self.format {
            Format::Json => message.data.clone(),
            Format::Table => text(&message.shape::<T>()?),
        };
        Ok(self.console.data(format!("{line}\n").as_bytes())?)
    }
}

/// How soon a person is told that a command still waits, and how often.
const TICK: Duration = Duration::from_secs(1);

/// Awaits `work` and shows a person for how long already.
async fn accompany<T>(work: impl Future<Output = T>, console: &mut Console, doing: &str) -> T {
    let begun = Instant::now();
    let mut work = std::pin::pin!(work);
    let mut shown = false;
    loop {
        tokio::select! {
            done = &mut work => {
                if shown {
                    console.progress("");
                }
                return done;
            }
            () = tokio::time::sleep(TICK) => {
                console.progress(&format!("{doing}: {} s", begun.elapsed().as_secs()));
                shown = true;
            }
        }
    }
}
