//! An agent in the same program: a program that embeds one runs its own VM service's [`super::Link`] against it directly.

use async_trait::async_trait;
use futures_util::StreamExt;
use landfall_proto::Refusal;
use landfall_proto::id::Revision;

use super::link::{AgentLink, Feed};
use super::wire::{Applied, Change, FeedEvent, Resync, Status};
use crate::Agent;
use crate::surface::Operations;
use crate::surface::settings::SettingsEvent;

#[async_trait]
impl AgentLink for Agent {
    async fn watch(&self, from: Option<Revision>) -> Result<Feed, Refusal> {
        let events = self.settings_watch(from).await?;
        let event = |event| match event {
            SettingsEvent::Settings(view) => FeedEvent::Settings(view),
            SettingsEvent::Resync { from } => FeedEvent::Resync(Resync { from }),
            SettingsEvent::Change { key, old, new, revision, more } => {
                FeedEvent::Change(Change { key, old, new, revision, more })
            }
        };
        Ok(events.map(move |item| item.map(event)).boxed())
    }

    async fn applied(&self, revision: Revision) -> Result<(), Refusal> {
        self.vm_service_applied(Applied { revision }).await
    }

    async fn report(&self, status: &Status) -> Result<(), Refusal> {
        self.vm_service_status(status.clone()).await
    }
}
