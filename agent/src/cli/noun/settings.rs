//! `landfall settings`.

use std::collections::BTreeMap;

use clap::Subcommand;
use hyper::Method;
use landfall_proto::id::Revision;
use landfall_proto::{Class, Refusal};
use serde_json::Value;

use crate::cli::amount::Waiting;
use crate::cli::session::{Ended, Session};
use crate::cli::table::{Shown, Table, or_dash};
use crate::surface::settings::{Settings, SettingsRevision, SettingsSet};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Verb {
    /// Every setting with its value, and the revision.
    Show,
    /// Changes settings, all or none, in the whole cluster.
    Set {
        /// Refuse if the settings have changed since this revision. Default: change them anyway. Example: --expect 12
        #[arg(long, value_name = "REV")]
        expect: Option<u64>,
        #[command(flatten)]
        waiting: Waiting,
        /// New values; KEY= returns a setting to its default. Example: replication_enabled=true node_down_after=10s
        #[arg(required = true, value_name = "KEY=VALUE", value_parser = assignment)]
        settings: Vec<(String, Option<String>)>,
    },
    /// The revisions that are remembered, oldest first, with who and when.
    History,
    /// Prints each change as one JSON line as it comes: `change`, `settings` (all of them) or `resync`.
    Watch {
        /// Begin after this revision. Default: begin with all settings as they are. Example: --from 12
        #[arg(long, value_name = "REV")]
        from: Option<u64>,
    },
}

/// How long `--wait` waits for every node's VM service where no time is given.
const WAIT_SECONDS: u64 = 60;

fn assignment(text: &str) -> Result<(String, Option<String>), Refusal> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), (!value.is_empty()).then(|| value.to_owned()))),
        _ => Err(Refusal::invalid("settings", text, "write KEY=VALUE, or KEY= for the default")),
    }
}

pub(in crate::cli) async fn run(verb: Verb, session: &mut Session<'_>) -> Result<(), Ended> {
    match verb {
        Verb::Show => session.read::<Settings>("/v1/settings").await,
        Verb::Set { expect, waiting, settings } => {
            let mut changes = BTreeMap::new();
            for (key, value) in settings {
                if changes.insert(key.clone(), value).is_some() {
                    let message = format!("{key} is given twice");
                    return Err(Refusal::new(Class::Usage, "given_twice", message).field(&key).into());
                }
            }
            let wait = waiting.or(WAIT_SECONDS);
            let expect = expect.map(Revision::from_number);
            let request = SettingsSet { settings: changes, expect, wait_seconds: wait };
            let doing = "waiting for every node's VM service";
            let answer = session.ask(Method::PATCH, "/v1/settings", Some(&request), wait, doing).await?;
            session.print::<Settings>(&answer)
        }
        Verb::History => session.read::<Vec<SettingsRevision>>("/v1/settings/history").await,
        Verb::Watch { from } => watch(from, session).await,
    }
}

async fn watch(from: Option<u64>, session: &mut Session<'_>) -> Result<(), Ended> {
    let path = from.map_or("/v1/settings/watch".to_owned(), |from| format!("/v1/settings/watch?from={from}"));
    let mut reached = from.map(|from| from.to_string());
    let mut feed = session.feed(&path).await?;
    let ended = loop {
        match feed.next().await {
            Ok(Some(message)) => {
                session.console().data(format!("{}\n", message.data).as_bytes())?;
                reached = message.id.or(reached);
            }
            Ok(None) => {
                break Refusal::new(Class::Unreachable, "feed_ended", "the agent ended the feed of its settings");
            }
            Err(refusal) => break refusal,
        }
    };
    // A refusal that has a remedy of its own knows better than this.
    let remedy = reached.map_or("watch again".to_owned(), |reached| format!("go on with --from {reached}"));
    Err(if ended.class == Class::Unreachable { ended.remedy(remedy) } else { ended }.into())
}

impl Shown for Settings {
    fn text(&self) -> String {
        let mut table = Table::new(["SETTING", "VALUE"]);
        for (key, value) in &self.settings {
            table.row([key.clone(), plain(value)]);
        }
        format!("revision {}\n\n{}", self.revision, table.text())
    }
}

/// A setting as it is written on the command line.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

impl Shown for Vec<SettingsRevision> {
    fn text(&self) -> String {
        let mut table = Table::new(["REVISION", "WHEN", "WHO", "SETTING", "OLD", "NEW"]);
        for revision in self {
            for change in &revision.changes {
                table.row([
                    revision.revision.to_string(),
                    revision.when.to_string(),
                    revision.who.clone(),
                    change.key.clone(),
                    or_dash(change.old.as_ref()),
                    or_dash(change.new.as_ref()),
                ]);
            }
        }
        table.text()
    }
}
