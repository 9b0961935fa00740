//! Sending one VM: the cycle that takes an instant, sends what changed, and follows its replica wherever it goes.
//!
//! A cycle that fails leaves its change set in the spool; the next try sends the same one, from where the holder says it
//! got to. Only when the holder's newest content is of another line does the sender look at its disks again.

pub mod capture;
mod clock;
mod flight;
mod hold;
mod parcel;
mod prepare;
pub mod record;
pub mod session;

use std::sync::Arc;
use std::time::Duration;

use landfall_proto::Refusal;
use landfall_proto::client::{BrokerClient, Wish};
use landfall_proto::endpoint::Target;
use landfall_proto::id::{Epoch, NodeName, UnixMillis};
use landfall_proto::message::broker::Location;
use landfall_proto::message::control::{SenderFigures, Traffic};
use landfall_proto::message::data::{ChangeSet, Hello, Tip};
use landfall_proto::model::Primary;
use landfall_proto::seam::Time;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use crate::decide::cycle::{self, Cycle, Failure};
use crate::drive::events::Happening;
use crate::drive::image::inspect;
use crate::drive::limits::Pace;
use crate::drive::node::Node;
use crate::drive::send::capture::{Base, Subject, Workshop, blocking, capture, discard};
use crate::drive::send::record::{Known, Record};
use crate::drive::send::session::{Meter, Session, Trouble};
use crate::drive::tally::Tally;
use crate::drive::transfers::Transfers;
use crate::vm_service::FreezeMethod;

/// How long a question to the CAP may take, retries included.
const BROKER_DEADLINE: Duration = Duration::from_secs(15);

/// Extents between the reader of a spool or disk and its session: 8 MiB at most.
const EXTENTS_AHEAD: usize = 16;

/// Redirects followed without a pause: more than a replica can really make in that time.
const REDIRECTS: u32 = 4;

/// The sender of one VM on this node.
pub struct Sender {
    /// This node.
    pub node: Node,
    /// What is sent, and where to.
    pub primary: Primary,
    /// The broker of the replica's cluster.
    pub broker: BrokerClient,
    /// Where indexes and the spool are.
    pub workshop: Workshop,
    /// What the sender says of itself.
    pub figures: watch::Sender<SenderFigures>,
    /// Where the replica was last heard to be.
    pub heard: watch::Receiver<Option<Location>>,
    /// Told when the next change set is wanted at once.
    pub hurry: Arc<Notify>,
    /// How many senders of this node may transfer at once.
    pub transfers: Transfers,
    /// How many of them may make first copies at once.
    pub copies: Transfers,
    /// What it may take of the line.
    pub pace: Pace,
    /// Ends a wait: what was in the way is gone.
    pub nudge: Arc<Notify>,
    /// What is counted.
    pub tally: Tally,
}

struct Line {
    at: Option<Location>,
    /// The assignment of the newest notice that was taken in.
    heard: Option<Epoch>,
    record: Record,
    flight: Option<ChangeSet>,
    session: Option<Session>,
    /// Whether the holder could not say, when it took the last change set, that it still is the holder.
    doubt: bool,
    /// The assignment whose node could not be reached at the last try.
    silent: Option<Epoch>,
    /// When the other side's clock was last asked for.
    clock_asked: Option<Time>,
}

/// What the workshop has of the relationship that began at `relationship`: the record, and a change set that was sealed.
/// A torn one describes no instant, and one of an earlier relationship nothing that is at the other side now. Blocks.
fn load(workshop: &Workshop, relationship: UnixMillis) -> Result<(Record, Option<ChangeSet>), Refusal> {
    let (folder, spool) = (&workshop.folder, workshop.spool());
    let _turn = workshop.enter();
    std::fs::create_dir_all(folder).map_err(|error| crate::drive::image::durable::fault("create", folder, &error))?;
    let (record, is_new) = Record::load(folder, relationship);
    if is_new {
        discard(&spool)?;
        record.save(folder)?;
        return Ok((record, None));
    }
    let sealed = spool.exists().then(|| inspect(&spool)).transpose();
    let sealed = sealed.unwrap_or_else(|refusal| {
        tracing::warn!(%refusal, "a change set that was to be sent cannot be read: another one is taken");
        None
    });
    Ok((record, sealed.filter(|found| found.complete).and_then(|found| found.change_set)))
}

impl Sender {
    /// Sends until the task is dropped.
    pub async fn run(mut self) {
        let relationship = self.primary.created_at;
        let workshop = self.workshop.clone();
        let loaded = blocking(move || load(&workshop, relationship)).await;
        let (record, flight) = loaded.unwrap_or_else(|refusal| {
            tracing::warn!(vm = %self.primary.vm.name, %refusal, "what the sender remembered cannot be read");
            (Record { relationship, ..Record::default() }, None)
        });
        self.tally.load(&self.workshop.folder).await;
        let mut line = Line {
            at: None,
            heard: None,
            record,
            flight,
            session: None,
            doubt: false,
            silent: None,
            clock_asked: None,
        };
        self.show_points(&line);
        self.forget_if_asked(&mut line).await;
        self.hold_back(&line).await;
        let interval = self.interval();
        let mut pace = Cycle::starting(self.node.outside.clock.now(), interval);
        loop {
            let now = self.node.outside.clock.now();
            tokio::select! {
                () = sleep(pace.due().since(now)) => {}
                () = self.hurry.notified() => {}
            }
            let begun = self.begin_count(&line, &pace);
            self.one_cycle(&mut line).await;
            pace.ended(self.node.outside.clock.now());
            self.count(begun, &pace).await;
            self.compare_clocks(&mut line).await;
            self.figures.send_modify(|figures| {
                figures.missed_cycles = pace.missed();
                figures.activity = "waiting".to_owned();
            });
        }
    }

    fn interval(&self) -> Duration {
        let asked = || Duration::from_secs(u32::from(self.primary.frequency).into());
        self.node.config.testing.interval.unwrap_or_else(asked)
    }

    /// Brings one instant to the other side, however many tries it takes.
    async fn one_cycle(&mut self, line: &mut Line) {
        let mut failures = 0;
        let mut redirects = 0;
        let began = self.node.outside.clock.now();
        let before = self.tally.traffic();
        loop {
            let trouble = match self.attempt(line).await {
                Ok(()) => {
                    self.figures.send_modify(|figures| figures.fault = None);
                    let took = self.node.outside.clock.now().since(began);
                    let point = line.record.points.last().map_or(0, |point| point.sequence);
                    let (vm, took_us) = (&self.primary.vm.name, took.as_micros());
                    let Traffic { sent_bytes, wire_bytes } = self.tally.traffic().since(before);
                    tracing::debug!(%vm, point, sent_bytes, wire_bytes, took_us, failures, "point acknowledged");
                    return;
                }
                Err(trouble) => trouble,
            };
            line.session = None;
            self.tally.save(&self.workshop.folder).await;
            tracing::info!(vm = %self.primary.vm.name, ?trouble, failures, "sending failed");
            match trouble {
                Trouble::Moved(to) if redirects < REDIRECTS => {
                    redirects += 1;
                    self.follow(line, *to);
                    continue;
                }
                Trouble::NotHere => line.at = None,
                _ => {}
            }
            let held = hold::is_held(&trouble);
            failures += 1;
            if !held {
                self.tally.failed();
            }
            let mut jitter = [0];
            self.node.outside.random.fill(&mut jitter);
            let how = if matches!(trouble, Trouble::NoNode(_)) { Failure::NoNode } else { Failure::AtNode };
            line.silent = line.at.as_ref().map(|at| at.epoch).filter(|_| how == Failure::NoNode);
            let again = cycle::again(failures, how, jitter[0]);
            // Whoever says that it is paused is the one that receives it.
            if again.ask_cap && !held {
                line.at = None;
            }
            let fault = trouble.refusal();
            self.figures.send_modify(|figures| {
                figures.activity = "retrying".to_owned();
                figures.fault = Some(fault);
            });
            // A notice that the replica has moved, or is no longer paused, ends the wait.
            let moved = self.heard.wait_for(|heard| {
                heard.as_ref().is_some_and(|heard| line.heard.is_none_or(|known| known < heard.epoch))
            });
            tokio::select! {
                () = sleep(again.after) => {}
                _ = moved => {}
                () = self.nudge.notified() => {}
            }
            if failures == 1 {
                let told = format!("sending {} failed: {}", self.primary.vm.name, trouble.refusal());
                self.node.events.record(Happening::warning("sending_failed", told).vm(self.primary.vm.id));
            }
        }
    }

    /// Takes in a notice that is news. An old one is not followed again: where it led nowhere, the CAP knows better.
    fn listen(&mut self, line: &mut Line) {
        let Some(heard) = self.heard.borrow().clone() else { return };
        if line.heard.is_some_and(|known| heard.epoch <= known) {
            return;
        }
        line.heard = Some(heard.epoch);
        if line.at.as_ref().is_none_or(|at| at.epoch < heard.epoch) {
            line.session = None;
            line.at = Some(heard);
        }
    }

    fn follow(&self, line: &mut Line, to: Location) {
        if line.at.as_ref().is_none_or(|at| at.epoch <= to.epoch) {
            line.at = Some(to);
        }
    }

    /// One try: everything that is still missing for the point that is due.
    async fn attempt(&mut self, line: &mut Line) -> Result<(), Trouble> {
        self.listen(line);
        let at = self.locate(line).await?;
        let mut session = match line.session.take() {
            Some(session) => session,
            None => {
                let session = unless_moved(self.heard.clone(), &at, self.open(line, &at)).await?;
                self.learn(line, &session).await?;
                session
            }
        };
        self.settle_flight(line, &session).await?;
        if line.flight.is_none() {
            self.activity("comparing");
            let base = prepare::base(self, line_base(line), &mut session).await?;
            self.activity("capturing");
            self.take_instant(line, base, &session).await?;
        }
        self.note_flight(line).await;
        let mut turn = self.transfers.turn(Arc::clone(&self.node.outside.clock)).await;
        self.activity("sending");
        let sent = unless_moved(self.heard.clone(), &at, self.send_flight(line, &mut session, &mut turn)).await;
        drop(turn);
        if let Err(trouble) = &sent {
            self.fall_back(line, trouble).await?;
        }
        let (point, confirmed) = sent?;
        session.newest = Some(Tip { sequence: point.sequence, root: point.root });
        self.acknowledged(line, point, confirmed).await?;
        if line.doubt {
            line.at = None;
        } else {
            line.session = Some(session);
        }
        Ok(())
    }

    fn activity(&self, word: &str) {
        self.figures.send_modify(|figures| word.clone_into(&mut figures.activity));
    }

    /// Where to send: as last known, else as the CAP says.
    async fn locate(&mut self, line: &mut Line) -> Result<Location, Trouble> {
        if let Some(at) = &line.at {
            return Ok(at.clone());
        }
        self.activity("locating");
        if let Some(peer) = self.node.state().peers.get(&self.primary.to) {
            let agents: Vec<_> = peer.list.members.iter().map(|member| member.control).collect();
            self.broker.set_agents(&agents);
        }
        let vm = self.primary.vm.id;
        let located = match line.doubt {
            true => self.broker.locate_newest(vm, BROKER_DEADLINE).await,
            false => self.broker.locate(vm, self.broker.position(), BROKER_DEADLINE).await,
        };
        let at = match located {
            // Nothing was acknowledged there, so nothing is lost elsewhere; without another node it is tried again.
            Ok(at) if line.silent == Some(at.epoch) && line.record.points.is_empty() => {
                self.place_again(Some(at.epoch)).await.unwrap_or(at)
            }
            Ok(at) => at,
            Err(refusal) if refusal.code == "no_replica" => self.place_again(None).await?,
            Err(refusal) => return Err(Trouble::Refused(refusal)),
        };
        line.at = Some(at.clone());
        let told = format!("{} was asked: {} receives {}", self.primary.to, at.node, self.primary.vm.name);
        let event = Happening::info("replica_located", told).vm(self.primary.vm.id).node(&self.node.name);
        self.node.events.record(event.with("epoch", &at.epoch));
        self.received_at(&at);
        Ok(at)
    }

    /// The other side keeps no replica, or on a node that does not answer: it is placed anew.
    async fn place_again(&mut self, instead_of: Option<Epoch>) -> Result<Location, Trouble> {
        self.activity("placing");
        let Primary { vm, frequency, recovery_points, .. } = &self.primary;
        let (frequency, recovery_points, lineage) = (*frequency, *recovery_points, self.node.state().lineage(vm.id));
        let wish = Wish { vm: vm.clone(), frequency, recovery_points, instead_of, lineage };
        let placed = self.broker.place(wish, BROKER_DEADLINE).await;
        placed.map(|(at, _)| at).map_err(Trouble::Refused)
    }

    async fn open(&mut self, line: &Line, at: &Location) -> Result<Session, Trouble> {
        let hello = Hello::Send {
            vm: self.primary.vm.id,
            epoch: at.epoch,
            sender_epoch: self.primary.sender_epoch,
            disks: self.primary.vm.disks.clone(),
            known: line.record.known(),
        };
        let target = self.data_target(at);
        let clock = Arc::clone(&self.node.outside.clock);
        let meter = Meter { tally: self.tally.clone(), pace: self.pace.clone(), clock };
        let opened = Session::open(&self.node.calls, &target, &hello, meter).await?;
        self.received_at(at);
        Ok(opened)
    }

    fn received_at(&self, at: &Location) {
        let receiver: NodeName = at.node.clone();
        self.figures.send_modify(|figures| {
            figures.receiver = Some(receiver);
            figures.assignment = Some(at.epoch);
        });
    }

    /// Takes in the points that the holder lists, durably: where it dies it is the sender who knows of them.
    async fn learn(&self, line: &mut Line, session: &Session) -> Result<(), Trouble> {
        if !line.record.learn(&session.points) {
            return Ok(());
        }
        let (workshop, record) = (self.workshop.clone(), line.record.clone());
        blocking(move || {
            let _turn = workshop.enter();
            record.save(&workshop.folder)
        })
        .await?;
        self.show_points(line);
        Ok(())
    }

    fn data_target(&self, at: &Location) -> Target {
        let state = self.node.state();
        let member = state.peers.get(&self.primary.to).and_then(|peer| peer.list.by_id(at.member).cloned());
        Target { cap: self.primary.to.clone(), address: at.data, key: member.map(|member| member.key) }
    }

    async fn take_instant(&self, line: &mut Line, base: Base, session: &Session) -> Result<(), Trouble> {
        let there = session.newest.map_or(0, |tip| tip.sequence);
        let sequence = line.record.last().max(there).saturating_add(1);
        let service = self.node.vms.service()?;
        let clock = &self.node.outside.clock;
        let (vm, disks) = (self.primary.vm.id, &self.primary.vm.disks);
        let subject = Subject { vm, disks, base, sequence, record: &line.record };
        let captured = capture(service, clock, &self.workshop, subject).await?;
        self.figures.send_modify(|figures| {
            figures.freeze = Some(match captured.method {
                FreezeMethod::Cloned => "cloned".to_owned(),
                FreezeMethod::Stopped => "stopped".to_owned(),
                FreezeMethod::Off => "off".to_owned(),
            });
            figures.frozen_micros = captured.stood_still_micros;
        });
        line.record.scans = captured.scans;
        line.flight = Some(captured.change_set);
        Ok(())
    }
}

/// What the record says of the newest acknowledged content.
fn line_base(line: &Line) -> Option<Known> {
    line.record.acknowledged.clone()
}

/// Does `work` with the node at `at`, and gives it up at once where the replica is heard to have moved on meanwhile: a
/// dead node would otherwise be waited for until its connection is given up.
async fn unless_moved<T>(
    mut heard: watch::Receiver<Option<Location>>,
    at: &Location,
    work: impl Future<Output = Result<T, Trouble>>,
) -> Result<T, Trouble> {
    let moved = async {
        let newer = heard.wait_for(|heard| heard.as_ref().is_some_and(|heard| heard.epoch > at.epoch)).await;
        let newer = newer.ok().and_then(|heard| heard.clone());
        match newer {
            Some(to) => to,
            // Nobody tells any more: the work alone decides.
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        done = work => done,
        to = moved => Err(Trouble::Moved(Box::new(to))),
    }
}
