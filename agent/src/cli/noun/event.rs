//! `landfall event`.

use clap::Subcommand;
use landfall_proto::{Class, Refusal};

use crate::cli::session::{Ended, Session};
use crate::cli::table::{or_dash, printable, word};
use crate::surface::event::{Event, RECENT_DEFAULT, RECENT_MAX};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Verb {
    /// Recent events of this agent, then new ones as they come; one JSON line an event with -o json.
    Tail {
        /// How many past events to begin with, 0 to 1000. Default: 20. Example: --recent 100
        #[arg(long, value_name = "COUNT", default_value_t = RECENT_DEFAULT, hide_default_value = true)]
        #[arg(value_parser = clap::value_parser!(u32).range(0..=i64::from(RECENT_MAX)))]
        recent: u32,
        /// End after the past events. Default: go on. Example: --no-follow
        #[arg(long)]
        no_follow: bool,
    },
}

pub(in crate::cli) async fn run(verb: Verb, session: &mut Session<'_>) -> Result<(), Ended> {
    let Verb::Tail { recent, no_follow } = verb;
    let follow = !no_follow;
    let mut feed = session.feed(&format!("/v1/events?recent={recent}&follow={follow}")).await?;
    while let Some(message) = feed.next().await? {
        session.print_event::<Event>(&message, line)?;
    }
    if follow {
        return Err(Refusal::new(Class::Unreachable, "feed_ended", "the agent ended the feed of its events")
            .remedy("see whether it still runs")
            .into());
    }
    Ok(())
}

fn line(event: &Event) -> String {
    let (node, severity) = (or_dash(event.node.as_ref()), word(&event.severity));
    format!("{}  {severity:<8}  {:<20}  {node:<8}  {}", event.at, printable(&event.kind), printable(&event.message))
}
