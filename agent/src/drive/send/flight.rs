//! The change set in flight: whether it can still be sent, sending it, and what its acknowledgement means.

use landfall_proto::Refusal;
use landfall_proto::message::control::{Point, PointState};
use tokio::sync::mpsc;

use super::capture::{blocking, discard};
use super::parcel::{Parcel, Purpose, Wrapper};
use super::record::Known;
use super::session::{Session, Trouble};
use super::{EXTENTS_AHEAD, Line, Sender};
use crate::decide::flight::{Back, Fate, back, fate};
use crate::drive::image::ChangeSetReader;
use crate::drive::transfers::Turn;

impl Sender {
    /// Decides what becomes of the change set in flight, by what the holder has.
    pub(super) async fn settle_flight(&self, line: &mut Line, session: &Session) -> Result<(), Trouble> {
        let Some(flight) = &line.flight else { return Ok(()) };
        match fate(flight, session.newest, session.staged, &self.primary.vm.disks) {
            Fate::Resend => Ok(()),
            Fate::Drop => self.drop_flight(line).await,
            Fate::Listed => {
                let point = Point {
                    sequence: flight.tip.sequence,
                    taken_at: flight.taken_at,
                    consistency: flight.consistency,
                    bytes: 0,
                    root: flight.tip.root,
                    copies: line.at.iter().map(|at| at.node.clone()).collect(),
                    state: PointState::Listed,
                    // What the holder lists of it comes with the next welcome.
                    stays: false,
                    verified_at: None,
                };
                self.acknowledged(line, point, session.confirmed).await
            }
        }
    }

    pub(super) async fn drop_flight(&self, line: &mut Line) -> Result<(), Trouble> {
        line.flight = None;
        let workshop = self.workshop.clone();
        Ok(blocking(move || {
            let _turn = workshop.enter();
            discard(&workshop.spool())
        })
        .await?)
    }

    /// Goes as far back as a failure to send the change set asks for: one that can never be applied is not kept.
    pub(super) async fn fall_back(&self, line: &mut Line, trouble: &Trouble) -> Result<(), Trouble> {
        let back = match trouble {
            Trouble::Refused(refusal) => back(&refusal.code),
            Trouble::Spoilt(_) => Back::Recapture,
            _ => Back::Resend,
        };
        if back == Back::Resend {
            return Ok(());
        }
        tracing::warn!(vm = %self.primary.vm.name, ?back, "the change set in flight is given up");
        if back == Back::Compare {
            line.record.acknowledged = None;
        }
        self.drop_flight(line).await
    }

    /// Sends the change set in flight, from where the holder already has it.
    pub(super) async fn send_flight(
        &self,
        line: &Line,
        session: &mut Session,
        turn: &mut Turn,
    ) -> Result<(Point, bool), Trouble> {
        let Some(mut change_set) = line.flight.clone() else {
            return Err(Trouble::Lost("there is nothing to send".to_owned()));
        };
        let staged = session.staged.filter(|staged| staged.tip == change_set.tip);
        change_set.resume_at = staged.map_or(0, |staged| staged.extents);
        let first = change_set.resume_at;
        let mut spool = self.read_spool(first);
        session.begin(change_set).await?;
        let mut extents = first;
        while let Some(extent) = spool.recv().await {
            session.carry(extent.map_err(Trouble::Spoilt)?, Some(&mut *turn)).await?;
            extents += 1;
        }
        let acknowledged = session.end(extents).await?;
        session.staged = None;
        Ok(acknowledged)
    }

    /// The extents of the spool from number `first`, read and packed ahead; the last one is an error where the spool
    /// cannot be read.
    fn read_spool(&self, first: u64) -> mpsc::Receiver<Result<Parcel, Refusal>> {
        let (ahead, extents) = mpsc::channel(EXTENTS_AHEAD);
        let spool = self.workshop.spool();
        let mut wrapper = Wrapper::new(Purpose::ChangeSet, self.node.state().resolved_settings().compression);
        tokio::task::spawn_blocking(move || {
            let mut read = || {
                let mut reader = ChangeSetReader::open(&spool)?;
                reader.skip_to(first)?;
                while let Some(extent) = reader.next_extent()? {
                    if ahead.blocking_send(Ok(wrapper.wrap(extent)?)).is_err() {
                        break;
                    }
                }
                tracing::debug!(counts = ?wrapper.counts(), "packed");
                Ok(())
            };
            if let Err(refusal) = read() {
                // Nobody listens where the session is gone, and then nobody needs to know.
                drop(ahead.blocking_send(Err(refusal)));
            }
        });
        extents
    }

    /// Takes in that the change set in flight is durable at the other side. Where the holder could not say that it still
    /// is the holder, that is no acknowledgement: the next session goes to where the newest of all answers says.
    pub(super) async fn acknowledged(&self, line: &mut Line, mut point: Point, confirmed: bool) -> Result<(), Trouble> {
        let Some(flight) = line.flight.take() else { return Ok(()) };
        if !confirmed {
            point.state = PointState::Unconfirmed;
        }
        line.doubt = !confirmed;
        let disks: Vec<_> = flight.disks.iter().map(|(disk, root)| (disk.target.clone(), *root)).collect();
        line.record.acknowledge(point, flight.base, Known { tip: flight.tip, disks: disks.clone() });
        let (workshop, record) = (self.workshop.clone(), line.record.clone());
        blocking(move || {
            let _turn = workshop.enter();
            record.save(&workshop.folder)?;
            discard(&workshop.spool())?;
            workshop.indexes()?.retain(&disks)
        })
        .await?;
        self.show_points(line);
        self.figures.send_modify(|figures| figures.in_flight = None);
        Ok(())
    }

    /// Shows the newest point that counts, and a newer one that does not yet.
    pub(super) fn show_points(&self, line: &Line) {
        let (newest, unconfirmed) = line.record.newest();
        self.figures.send_modify(|figures| {
            figures.acknowledged = newest.cloned();
            figures.unconfirmed = unconfirmed.cloned();
        });
    }
}
