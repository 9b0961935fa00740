//! A replica that is kept on more than one node: what is staged here and may be acknowledged, and how a copy comes to
//! agree with its holder.

use std::path::PathBuf;

use landfall_proto::Refusal;
use landfall_proto::id::Epoch;
use landfall_proto::message::data::{ChangeSet, Tip};
use landfall_proto::planted::{self, Bug};
use landfall_proto::refusal::Class;

use super::layout::STAGED;
use super::manifest::PointEntry;
use super::stage::Staging;
use super::store::{Epochs, ReplicaStore};

/// A change set that is staged whole: what it makes, and where its extents can be read again.
#[derive(Clone, Debug)]
pub struct StagedLog {
    /// The change set.
    pub set: ChangeSet,
    /// How many extents it has.
    pub extents: u64,
    /// Its redo log, sealed.
    pub path: PathBuf,
}

impl ReplicaStore {
    /// What is staged whole and durable and not being applied yet: it may have been acknowledged.
    pub fn staged_log(&self) -> Option<StagedLog> {
        let staging = self.staging.as_ref().filter(|staging| staging.is_whole())?;
        let path = self.layout().path(STAGED);
        Some(StagedLog { set: staging.set.clone(), extents: staging.staged().extents, path })
    }

    /// The change set that makes `tip`, where it has begun here: what was said of it then still holds.
    pub fn begun(&self, tip: Tip) -> Option<&ChangeSet> {
        self.staging.as_ref().map(|staging| &staging.set).filter(|set| set.tip == tip)
    }

    /// The newest sender that was seen here, at another assignment of the holder; `None` where nobody has ever sent.
    pub fn epochs_at(&self, assignment: Epoch) -> Option<Epochs> {
        let seen = self.manifest().senders.last()?;
        Some(Epochs { assignment, cluster: seen.cluster, sender: seen.epoch })
    }

    /// Whether a reader wants nothing new to come just now.
    pub fn is_frozen(&self) -> bool {
        self.shared.is_frozen()
    }

    /// Lets new points come again, whoever wanted none: their copies are not of the newest point from now on.
    pub fn thaw(&self) {
        self.shared.thaw();
    }

    /// Remembers, durably, who holds the replica and sends: from now on what is older is refused.
    pub fn take_up(&mut self, epochs: &Epochs) -> Result<(), Refusal> {
        self.check_epochs(epochs)?;
        let before = self.manifest.clone();
        self.manifest.epoch = epochs.assignment;
        self.manifest.see(epochs.cluster, epochs.sender);
        if self.manifest != before
            && let Err(refusal) = self.save()
        {
            self.manifest = before;
            return Err(refusal);
        }
        Ok(())
    }

    /// Takes in, as a copy, who holds the replica and sends, and what the holder has: its `newest` point, and what it has
    /// `staged` whole beyond it. What is staged here and is either of the two stays or is listed; anything else that is
    /// staged was never acknowledged and is dropped. What this copy lists and has staged whole then.
    pub fn agree(
        &mut self,
        epochs: &Epochs,
        newest: Tip,
        staged: Option<Tip>,
    ) -> Result<(Option<Tip>, Option<Tip>), Refusal> {
        self.take_up(epochs)?;
        let here = self.staging.as_ref().filter(|staging| staging.is_whole()).map(|staging| staging.set.tip);
        if self.applying.is_some() || here == Some(newest) {
            self.commit()?;
        } else if self.staging.is_some() && (here.is_none() || here != staged || planted::is(Bug::AgreedSetDropped)) {
            self.drop_staged()?;
        }
        let here = self.staging.as_ref().map(Staging::staged).map(|staged| staged.tip);
        // Also where its content is in doubt: what is based on that is refused when it comes, and what is not mends it.
        Ok((self.manifest().newest().map(PointEntry::tip), here))
    }

    /// Applies and lists what is staged whole, provided that it is `tip`; done already is as good.
    pub fn apply(&mut self, tip: Tip) -> Result<(), Refusal> {
        if self.applying.is_none() && self.manifest().newest().is_some_and(|point| point.tip() == tip) {
            return Ok(());
        }
        let staged = self.staged_log().map(|log| log.set.tip);
        if staged != Some(tip) && self.applying.as_ref().map(|set| set.tip) != Some(tip) {
            let message = format!("point {} is not staged here", tip.sequence);
            return Err(Refusal::new(Class::Refused, "nothing_staged", message).remedy("pass it on again"));
        }
        self.commit().map(drop)
    }
}
