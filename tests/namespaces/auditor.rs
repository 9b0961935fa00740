//! Asks every kernel who has the address, and every agent whether it acts, all the time.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hyper::Method;
use landfall_agent::cli::client::{Client, Patience};
use landfall_agent::drive::cap_address::kernel::Rtnetlink;

use crate::net;

/// How often every kernel is asked.
const KERNELS_EVERY: Duration = Duration::from_millis(10);
/// How often every agent is asked.
const AGENTS_EVERY: Duration = Duration::from_millis(20);

/// A node that is audited.
pub struct Audited {
    pub name: String,
    pub namespace: String,
    pub socket: PathBuf,
}

/// What was seen.
#[derive(Default)]
struct Seen {
    /// Who had the address, from when on: an entry at each change.
    holders: Vec<(Instant, Vec<String>)>,
    /// Samples in which two had one of the addresses.
    twice: Vec<(IpAddr, Vec<String>)>,
    samples: u64,
    /// Who said that it acts, under which term: when it was asked, and when the answer came.
    acting: Vec<(String, u64, Instant, Instant)>,
    answers: u64,
}

/// The auditor; it stops when it is dropped.
pub struct Auditor {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Auditor {
    /// Begins to look for `addresses`; who has the first is what the rest is told by.
    pub fn start(nodes: &[Audited], addresses: [IpAddr; 2]) -> Self {
        let (seen, stop) = (Arc::<Mutex<Seen>>::default(), Arc::<AtomicBool>::default());
        let kernels: Vec<(String, String)> =
            nodes.iter().map(|node| (node.name.clone(), node.namespace.clone())).collect();
        let mut threads = Vec::new();
        let (to, until) = (Arc::clone(&seen), Arc::clone(&stop));
        threads.push(std::thread::spawn(move || kernels_of(&kernels, addresses, &to, &until)));
        for node in nodes {
            let (name, socket) = (node.name.clone(), node.socket.clone());
            let (to, until) = (Arc::clone(&seen), Arc::clone(&stop));
            threads.push(std::thread::spawn(move || agent(&name, socket, &to, &until)));
        }
        Self { seen, stop, threads }
    }

    /// Who has the address now.
    pub fn holders(&self) -> Vec<String> {
        self.seen.lock().unwrap().holders.last().map(|(_, who)| who.clone()).unwrap_or_default()
    }

    /// When `node` had the address for the first time after `since`.
    pub fn taken_by_another(&self, node: &str, since: Instant) -> Option<(String, Instant)> {
        let seen = self.seen.lock().unwrap();
        let after = seen.holders.iter().filter(|(at, _)| *at >= since);
        after.flat_map(|(at, who)| who.iter().map(move |who| (who.clone(), *at))).find(|(who, _)| who != node)
    }

    /// When `node` had lost the address after `since`.
    pub fn lost_by(&self, node: &str, since: Instant) -> Option<Instant> {
        let seen = self.seen.lock().unwrap();
        let gone = |(at, who): &&(Instant, Vec<String>)| *at >= since && !who.iter().any(|who| who == node);
        seen.holders.iter().find(gone).map(|(at, _)| *at)
    }

    /// Fails where two ever had the address, or two ever acted.
    #[track_caller]
    pub fn check(&self) {
        let seen = self.seen.lock().unwrap();
        let two = &seen.twice;
        assert!(two.is_empty(), "two holders in {} of {} samples: {two:?}", two.len(), seen.samples);
        let both = overlaps(&seen.acting);
        assert!(both.is_empty(), "two acted at a time: {both:?}");
        assert!(seen.samples > 100 && seen.answers > 100, "{} samples, {} answers", seen.samples, seen.answers);
    }

    /// How often kernels and agents were asked.
    pub fn counts(&self) -> (u64, u64) {
        let seen = self.seen.lock().unwrap();
        (seen.samples, seen.answers)
    }
}

impl Drop for Auditor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

/// Of each two agents the answers that cannot both be right: one that came while the other acted, since it said so under
/// one term before and after.
fn overlaps(acting: &[(String, u64, Instant, Instant)]) -> Vec<String> {
    let mut terms: Vec<(&str, u64, Instant, Instant)> = Vec::new();
    for (who, term, asked, answered) in acting {
        match terms.iter_mut().find(|(other, known, ..)| other == who && known == term) {
            // It acted from when it first answered until it was last asked, at the least.
            Some(run) => run.3 = run.3.max(*asked),
            None => terms.push((who, *term, *answered, *answered)),
        }
    }
    let mut found = Vec::new();
    for (who, term, asked, answered) in acting {
        let while_acting =
            |(other, _, from, until): &&(&str, u64, Instant, Instant)| other != who && from < asked && answered < until;
        if let Some((other, other_term, ..)) = terms.iter().find(while_acting) {
            found.push(format!("{who} (term {term}) while {other} did (term {other_term})"));
        }
    }
    found
}

/// A socket stays in the namespace in which it was opened.
fn kernels_of(nodes: &[(String, String)], addresses: [IpAddr; 2], seen: &Mutex<Seen>, stop: &AtomicBool) {
    let open = |(name, namespace): &(String, String)| {
        net::enter(namespace);
        (name.clone(), Rtnetlink::open().expect("a netlink socket"))
    };
    let mut kernels: Vec<(String, Rtnetlink)> = nodes.iter().map(open).collect();
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let mut having = addresses.map(|address| (address, Vec::new()));
        for (name, kernel) in &mut kernels {
            let found = kernel.addresses().expect("the kernel's answer");
            for (address, holders) in &mut having {
                if found.iter().any(|standing| standing.ip == *address) {
                    holders.push(name.clone());
                }
            }
        }
        let mut seen = seen.lock().unwrap();
        seen.samples += 1;
        seen.twice.extend(having.iter().filter(|(_, holders)| holders.len() > 1).cloned());
        let [(_, holders), _] = having;
        if seen.holders.last().is_none_or(|(_, last)| *last != holders) {
            seen.holders.push((begun, holders));
        }
        drop(seen);
        std::thread::sleep(KERNELS_EVERY.saturating_sub(begun.elapsed()));
    }
}

fn agent(name: &str, socket: PathBuf, seen: &Mutex<Seen>, stop: &AtomicBool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let client = Client::new(socket);
    while !stop.load(Ordering::Relaxed) {
        let asked = Instant::now();
        let patience = Patience::Waiting(Duration::from_millis(500));
        let answer = runtime.block_on(async {
            let asking = client.send::<()>(Method::GET, "/v1/broker", None, patience);
            tokio::time::timeout(Duration::from_millis(500), asking).await
        });
        if let Ok(Ok(answer)) = answer {
            let mut seen = seen.lock().unwrap();
            seen.answers += 1;
            let status: serde_json::Value = answer.shape().expect("a status");
            if let (Some(owner), Some(term)) = (status["owner"].as_str(), status["term"].as_u64())
                && owner == name
            {
                seen.acting.push((name.to_owned(), term, asked, Instant::now()));
            }
        }
        std::thread::sleep(AGENTS_EVERY.saturating_sub(asked.elapsed()));
    }
}

#[test]
fn an_answer_while_another_acts_is_found_and_one_after_it_is_not() {
    let begun = Instant::now();
    let at = |ms: u64| begun + Duration::from_millis(ms);
    let said = |who: &str, term, ms| (who.to_owned(), term, at(ms), at(ms + 5));
    let first = [said("r1", 1, 0), said("r1", 1, 100)];
    assert!(overlaps(&[&first[..], &[said("r2", 2, 200)]].concat()).is_empty());
    assert_eq!(overlaps(&[&first[..], &[said("r2", 2, 50)]].concat()).len(), 1);
    // Nobody knows what became of the first after its last word.
    assert!(overlaps(&[&first[..], &[said("r2", 2, 99)]].concat()).is_empty());
}
