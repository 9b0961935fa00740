//! Keeps a VM service attached to its agent: settings down, acknowledgements and status up.
//!
//! The agent may be away, or restart, at any time: the link waits with a bounded back-off and goes on after the last
//! revision that the VM service has applied. It never applies half a revision, never goes back within a feed, and asks
//! for the whole view again where a change does not fit what it knows.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use landfall_proto::id::Revision;
use landfall_proto::{Class, Refusal};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::wire::{Change, FeedEvent, Health, STATUS_EVERY, Status};
use crate::vm_service::{SettingsView, VmService};

/// The first wait after the agent was lost: it may be restarting.
const BACK_OFF_MIN: Duration = Duration::from_millis(100);
/// The longest wait: an agent that is back is noticed within its `node_down_after`.
const BACK_OFF_MAX: Duration = Duration::from_secs(2);

/// The stream of settings. Its end means that the agent closed it.
pub type Feed = BoxStream<'static, Result<FeedEvent, Refusal>>;

/// An agent, as its VM service sees it. Every call is bounded in time by the implementation.
#[async_trait]
pub trait AgentLink: Send + Sync + 'static {
    /// Watches the settings: what came after `from`, or the whole view first where that is `None`.
    async fn watch(&self, from: Option<Revision>) -> Result<Feed, Refusal>;

    /// Tells that the settings of a revision are in force here.
    async fn applied(&self, revision: Revision) -> Result<(), Refusal>;

    /// Tells how the VM service is.
    async fn report(&self, status: &Status) -> Result<(), Refusal>;
}

/// The link between one VM service and its agent.
pub struct Link {
    service: Arc<dyn VmService>,
    agent: Arc<dyn AgentLink>,
}

impl Link {
    /// A link between the two.
    pub fn new(service: Arc<dyn VmService>, agent: Arc<dyn AgentLink>) -> Self {
        Self { service, agent }
    }

    /// Keeps them attached until dropped.
    pub async fn run(&self) {
        tokio::join!(self.follow_settings(), self.report_status());
    }

    async fn follow_settings(&self) {
        let mut applied: Option<SettingsView> = None;
        let mut wait = BACK_OFF_MIN;
        let mut told: Option<Refusal> = None;
        loop {
            let before = applied.as_ref().map(|view| view.revision);
            let Err(refusal) = self.follow(&mut applied).await;
            if applied.as_ref().map(|view| view.revision) != before {
                (wait, told) = (BACK_OFF_MIN, None);
            }
            // Said once, not at every attempt.
            if told.as_ref().is_none_or(|last| last.code != refusal.code) {
                tracing::warn!(err = %refusal, "settings are not followed for now");
                told = Some(refusal);
            }
            sleep(wait).await;
            wait = (wait * 2).min(BACK_OFF_MAX);
        }
    }

    /// Follows one stream until it breaks.
    async fn follow(&self, applied: &mut Option<SettingsView>) -> Result<std::convert::Infallible, Refusal> {
        let mut feed = self.agent.watch(applied.as_ref().map(|view| view.revision)).await?;
        if let Some(view) = &*applied {
            // An agent that has restarted does not know this any more.
            self.agent.applied(view.revision).await?;
        }
        let mut draft = applied.clone();
        while let Some(event) = feed.next().await {
            let complete = match event? {
                FeedEvent::Resync(resync) => {
                    tracing::info!(from = resync.from.number(), "settings resync");
                    (*applied, draft) = (None, None);
                    continue;
                }
                FeedEvent::Settings(view) => {
                    draft = Some(view);
                    true
                }
                FeedEvent::Change(change) => match advance(draft.as_mut(), &change) {
                    Ok(()) => !change.more,
                    Err(refusal) => {
                        *applied = None;
                        return Err(refusal);
                    }
                },
            };
            if let Some(view) = draft.as_ref().filter(|_| complete) {
                self.service.apply_settings(view).await?;
                *applied = Some(view.clone());
                self.agent.applied(view.revision).await?;
            }
        }
        Err(Refusal::new(Class::Unreachable, "agent_unreachable", "the agent closed the stream of settings")
            .remedy("nothing: it is opened again"))
    }

    async fn report_status(&self) {
        let mut ticks = interval(STATUS_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reached = true;
        loop {
            ticks.tick().await;
            let result = self.agent.report(&self.status().await).await;
            match &result {
                Err(refusal) if reached => tracing::warn!(err = %refusal, "the agent takes no status for now"),
                Ok(()) if !reached => tracing::info!("the agent takes status again"),
                _ => {}
            }
            reached = result.is_ok();
        }
    }

    async fn status(&self) -> Status {
        let (probe, vms, storage) = tokio::join!(self.service.probe(), self.service.list(), self.service.storage());
        let mut reason = probe.err();
        let vms = vms.unwrap_or_else(|refusal| {
            reason.get_or_insert(refusal);
            Vec::new()
        });
        let storage = storage.unwrap_or_else(|refusal| {
            reason.get_or_insert(refusal);
            Vec::new()
        });
        let state = if reason.is_some() { Health::Degraded } else { Health::Running };
        let reason = reason.map(|refusal| refusal.to_string());
        Status { state, reason, vms, storage, pid: std::process::id() }
    }
}

/// Applies one change to `draft`, or says that it does not fit.
fn advance(draft: Option<&mut SettingsView>, change: &Change) -> Result<(), Refusal> {
    let misfit = |why: String| {
        Refusal::new(Class::Failed, "settings_misfit", format!("a change of {} does not fit: {why}", change.key))
            .remedy("nothing: the whole view is asked for again")
    };
    let Some(view) = draft else { return Err(misfit("no view came before it".to_owned())) };
    if change.revision < view.revision {
        return Err(misfit(format!("revision {} after {}", change.revision, view.revision)));
    }
    let known = view.settings.get(&change.key);
    if change.old.is_some() && known != change.old.as_ref() {
        return Err(misfit(format!("it was {known:?} here and {:?} there", change.old)));
    }
    let Some(new) = &change.new else { return Err(misfit("it does not say the new value".to_owned())) };
    view.settings.insert(change.key.clone(), new.clone());
    view.revision = change.revision;
    Ok(())
}
