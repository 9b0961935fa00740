//! What the audience sees: plain lines on standard output.

use std::cell::{Cell, RefCell};
use std::io::{Write, stdout};
use std::time::{Duration, Instant};

use landfall_proto::Refusal;

/// The width that lines are wrapped to: what every terminal has.
const WIDTH: usize = 100;

/// Tells the story and keeps the time.
#[derive(Debug)]
pub struct Stage {
    began: Instant,
    number: Cell<Option<usize>>,
    held: RefCell<Vec<(String, Duration)>>,
}

impl Stage {
    /// Begins.
    pub fn open() -> Self {
        Self { began: Instant::now(), number: Cell::new(None), held: RefCell::default() }
    }

    /// Plays one step, the first one being number 0: its heading, what it tells by itself, and how long it took.
    pub async fn step(&self, title: &str, play: impl Future<Output = Result<(), Refusal>>) -> Result<(), Refusal> {
        let number = self.number.get().map_or(0, |last| last + 1);
        self.number.set(Some(number));
        line(&format!("\n{number}. {title}"));
        let began = Instant::now();
        play.await?;
        let took = began.elapsed();
        line(&format!("   OK, {} ms", took.as_millis()));
        self.held.borrow_mut().push((title.to_owned(), took));
        Ok(())
    }

    /// What is done or meant, in words.
    pub fn say(&self, text: &str) {
        wrapped("   ", "   ", text);
    }

    /// A command line as a user would type it at `node`.
    pub fn command(&self, node: &str, words: &str) {
        line(&format!("   {node}$ landfall {words}"));
    }

    /// What was seen.
    pub fn saw(&self, text: &str) {
        wrapped("      ", "      ", text);
    }

    /// The story ended here.
    pub fn failed(&self, refusal: &Refusal) {
        match self.number.get() {
            None => line(&format!("\nNot begun: {refusal}")),
            Some(number) => line(&format!("\n   NOT OK. Step {number} did not hold: {refusal}")),
        }
    }

    /// The end of a process's log, after a failure.
    pub fn log(&self, of: &str, tail: &[String]) {
        line(&format!("\n--- the end of {of}"));
        tail.iter().for_each(|text| line(text));
    }

    /// The end: all steps with their times.
    pub fn close(&self, well: bool) {
        let took = self.began.elapsed();
        if !well {
            line(&format!("\nEverything that was started is ended and removed, after {:.1} s.", took.as_secs_f64()));
            return;
        }
        line("");
        for (number, (title, took)) in self.held.borrow().iter().enumerate() {
            line(&format!("   {:>2}. {:>6} ms  {title}", number, took.as_millis()));
        }
        let seconds = took.as_secs_f64();
        line(&format!("\nEvery step held, in {seconds:.1} s. Every process is ended and every file removed."));
    }
}

/// A terminal that is gone is nobody's loss: the exit code still says how it went.
fn line(text: &str) {
    let _ = writeln!(stdout(), "{text}");
}

fn wrapped(first: &str, further: &str, text: &str) {
    let mut current = first.to_owned();
    let mut empty = true;
    for word in text.split_whitespace() {
        if !empty && current.chars().count() + 1 + word.chars().count() > WIDTH {
            line(&current);
            further.clone_into(&mut current);
            empty = true;
        }
        if !empty {
            current.push(' ');
        }
        current.push_str(word);
        empty = false;
    }
    line(&current);
}

/// Bytes for people.
pub fn bytes(count: u64) -> String {
    match count {
        0..10_240 => format!("{count} bytes"),
        10_240..10_485_760 => format!("{} KiB", count / 1024),
        _ => format!("{} MiB", count / 1_048_576),
    }
}
