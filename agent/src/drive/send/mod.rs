//! Sending one VM: the cycle that takes an instant, sends what changed, and follows its replica wherever it goes.
//!
//! A cycle that fails leaves its change set in the spool; the next try sends the same one, from where the holder says it
//! got to. Only when the holder's newest content is of another line does the sender look at its disks again.

pub mod capture;
mod clock;
mod hold;
mod prepare;
pub mod record;
pub mod session;

use std::sync::Arc;
use std::time::Duration;

use landfall_proto::client::{BrokerClient, Wish};
use landfall_proto::endpoint::Target;
use landfall_proto::id::{Epoch, NodeName};
use landfall_proto::message::broker::Location;
use landfall_proto::message::control::{Point, PointState, SenderFigures};
use landfall_proto::message::data::{ChangeSet, Hello, Tip};
use landfall_proto::model::Primary;
use landfall_proto::seam::Time;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use crate::decide::cycle::{self, Cycle, Failure};
use crate::drive::events::Happening;
use crate::drive::image::{ChangeSetReader, inspect};
use crate::drive::node::Node;
use crate::drive::send::capture::{Base, Subject, Workshop, blocking, capture, discard};
use crate::drive::send::record::{Known, Record};
use crate::drive::send::session::{Session, Trouble};
use crate::drive::tally::Tally;
use crate::drive::transfers::Transfers;
use crate::vm_service::FreezeMethod;

/// How long a question to the CAP may take, retries included.
const BROKER_DEADLINE: Duration = Duration::from_secs(15);

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
    /// How many senders of this node may transfer at once.
    pub transfers: Transfers,
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
    /// When the other side's clock was last asked for.
    clock_asked: Option<Time>,
}

impl Sender {
    /// Sends until the task is dropped.
    pub async fn run(mut self) {
        let folder = self.workshop.folder.clone();
        let spool = self.workshop.spool();
        let relationship = self.primary.created_at;
        let loaded = blocking(move || {
            std::fs::create_dir_all(&folder)
                .map_err(|error| crate::drive::image::durable::fault("create", &folder, &error))?;
            // A spool that was sealed is sent as it is; a torn one describes no instant.
            let sealed = spool.exists().then(|| inspect(&spool)).transpose()?.filter(|found| found.complete);
            Ok((Record::load(&folder, relationship), sealed.and_then(|found| found.change_set)))
        })
        .await;
        let unknown = Record { relationship, ..Record::default() };
        let (record, flight) = loaded.unwrap_or((unknown, None));
        let newest = record.points.last().cloned();
        self.figures.send_modify(|figures| figures.acknowledged = newest);
        self.tally.load(&self.workshop.folder).await;
        let mut line = Line { at: None, heard: None, record, flight, session: None, clock_asked: None };
        self.forget_if_asked(&mut line).await;
        self.hold_back(&line).await;
        let interval = self.interval();
        let mut pace = Cycle::starting(self.node.outside.clock.now(), interval);
        loop {
            let now = self.node.outside.clock.now();
            sleep(pace.due().since(now)).await;
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
        loop {
            let trouble = match self.attempt(line).await {
                Ok(()) => {
                    self.figures.send_modify(|figures| figures.fault = None);
                    return;
                }
                Err(trouble) => trouble,
            };
            line.session = None;
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
            None => unless_moved(self.heard.clone(), &at, self.open(line, &at)).await?,
        };
        self.settle_flight(line, &session).await?;
        if line.flight.is_none() {
            self.activity("comparing");
            let base = prepare::base(self, line_base(line), &mut session).await?;
            self.activity("capturing");
            self.take_instant(line, base, &session).await?;
        }
        self.note_flight(line).await;
        let permit = self.transfers.enter().await;
        self.activity("sending");
        let sent = unless_moved(self.heard.clone(), &at, self.send_flight(line, &mut session)).await;
        drop(permit);
        let (sent_bytes, wire_bytes) = (session.sent_bytes, session.wire_bytes);
        session.sent_bytes = 0;
        session.wire_bytes = 0;
        self.figures.send_modify(|figures| {
            figures.sent_bytes += sent_bytes;
            figures.wire_bytes += wire_bytes;
        });
        let (point, confirmed) = sent?;
        session.newest = Some(Tip { sequence: point.sequence, root: point.root });
        self.acknowledged(line, point, confirmed).await?;
        line.session = Some(session);
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
        let located = self.broker.locate(self.primary.vm.id, self.broker.position(), BROKER_DEADLINE).await;
        let at = match located {
            Ok(at) => at,
            Err(refusal) if refusal.code == "no_replica" => self.place_again().await?,
            Err(refusal) => return Err(Trouble::Refused(refusal)),
        };
        line.at = Some(at.clone());
        let told = format!("{} was asked: {} receives {}", self.primary.to, at.node, self.primary.vm.name);
        let event = Happening::info("replica_located", told).vm(self.primary.vm.id).node(&self.node.name);
        self.node.events.record(event.with("epoch", &at.epoch));
        let receiver: NodeName = at.node.clone();
        self.figures.send_modify(|figures| figures.receiver = Some(receiver));
        Ok(at)
    }

    /// The other side keeps no replica: it is placed anew.
    async fn place_again(&mut self) -> Result<Location, Trouble> {
        self.activity("placing");
        let Primary { vm, frequency, recovery_points, .. } = &self.primary;
        let wish = Wish { vm: vm.clone(), frequency: *frequency, recovery_points: *recovery_points, instead_of: None };
        let placed = self.broker.place(wish, BROKER_DEADLINE).await;
        placed.map(|(at, _)| at).map_err(Trouble::Refused)
    }

    async fn open(&mut self, line: &Line, at: &Location) -> Result<Session, Trouble> {
        let hello = Hello::Send {
            vm: self.primary.vm.id,
            epoch: at.epoch,
            sender_epoch: self.primary.sender_epoch,
            disks: self.primary.vm.disks.clone(),
            known: line.record.points.clone(),
        };
        let target = self.data_target(at);
        let opened = Session::open(&self.node.calls, &target, &hello).await?;
        let receiver = at.node.clone();
        self.figures.send_modify(|figures| figures.receiver = Some(receiver));
        Ok(opened)
    }

    fn data_target(&self, at: &Location) -> Target {
        let state = self.node.state();
        let member = state.peers.get(&self.primary.to).and_then(|peer| peer.list.by_id(at.member).cloned());
        Target { cap: self.primary.to.clone(), address: at.data, key: member.map(|member| member.key) }
    }

    /// Decides what becomes of the change set in flight, by what the holder has.
    async fn settle_flight(&self, line: &mut Line, session: &Session) -> Result<(), Trouble> {
        let Some(flight) = &line.flight else { return Ok(()) };
        if session.newest == Some(flight.tip) {
            // It was acknowledged, and only the answer was lost.
            let point = Point {
                sequence: flight.tip.sequence,
                taken_at: flight.taken_at,
                consistency: flight.consistency,
                bytes: 0,
                root: flight.tip.root,
                copies: line.at.iter().map(|at| at.node.clone()).collect(),
                state: PointState::Listed,
            };
            return self.acknowledged(line, point, true).await;
        }
        if session.newest != flight.base || self.primary.vm.disks.iter().ne(flight.disks.iter().map(|(disk, _)| disk)) {
            line.flight = None;
            let spool = self.workshop.spool();
            blocking(move || discard(&spool)).await?;
        }
        Ok(())
    }

    async fn take_instant(&self, line: &mut Line, base: Base, session: &Session) -> Result<(), Trouble> {
        let known = line.record.points.last().map_or(0, |point| point.sequence);
        let there = session.newest.map_or(0, |tip| tip.sequence);
        let sequence = known.max(there) + 1;
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

    /// Sends the change set in flight, from where the holder already has it.
    async fn send_flight(&self, line: &Line, session: &mut Session) -> Result<(Point, bool), Trouble> {
        let Some(mut change_set) = line.flight.clone() else {
            return Err(Trouble::Lost("there is nothing to send".to_owned()));
        };
        let staged = session.staged.filter(|staged| staged.tip == change_set.tip);
        change_set.resume_at = staged.map_or(0, |staged| staged.extents);
        let first = change_set.resume_at;
        let spool = self.workshop.spool();
        let mut reader = blocking(move || {
            let mut reader = ChangeSetReader::open(&spool)?;
            reader.skip_to(first)?;
            Ok(reader)
        })
        .await?;
        session.begin(change_set).await?;
        let mut extents = first;
        loop {
            let (back, extent) = blocking(move || {
                let extent = reader.next_extent()?;
                Ok((reader, extent))
            })
            .await?;
            reader = back;
            match extent {
                Some(extent) => session.extent(extent).await?,
                None => break,
            }
            extents += 1;
        }
        let acknowledged = session.end(extents).await?;
        session.staged = None;
        Ok(acknowledged)
    }

    /// Takes in that the change set in flight is durable at the other side.
    async fn acknowledged(&self, line: &mut Line, mut point: Point, confirmed: bool) -> Result<(), Trouble> {
        let Some(flight) = line.flight.take() else { return Ok(()) };
        if !confirmed {
            point.state = PointState::Unconfirmed;
        }
        let disks: Vec<_> = flight.disks.iter().map(|(disk, root)| (disk.target.clone(), *root)).collect();
        line.record.acknowledge(point.clone(), Known { tip: flight.tip, disks: disks.clone() });
        let (workshop, record) = (self.workshop.clone(), line.record.clone());
        blocking(move || {
            record.save(&workshop.folder)?;
            discard(&workshop.spool())?;
            workshop.indexes()?.retain(&disks)
        })
        .await?;
        self.figures.send_modify(|figures| {
            figures.acknowledged = Some(point);
            figures.in_flight = None;
        });
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
