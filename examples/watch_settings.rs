//! Watches the replication settings as a VM service would: every change once, in order, or a word to read anew.
//!
//! ```sh
//! cargo run --example watch_settings -- /run/landfall/landfall.sock
//! ```

use futures_util::StreamExt;
use landfall_agent::drive::attach::{AgentLink, SocketLink, wire::FeedEvent};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let socket = std::env::args().nth(1).unwrap_or_else(|| "/run/landfall/landfall.sock".to_owned());
    let agent = SocketLink::new(&socket);
    let mut feed = agent.watch(None).await?;
    while let Some(event) = feed.next().await {
        match event? {
            FeedEvent::Settings(view) => {
                println!("revision {}:", view.revision);
                for (key, value) in &view.settings {
                    println!("  {key} = {value}");
                }
                // A VM service would act by them, write them down, and only then say so.
                agent.applied(view.revision).await?;
            }
            FeedEvent::Change(change) => {
                println!("revision {}: {} was {:?}, is {:?}", change.revision, change.key, change.old, change.new);
                if !change.more {
                    agent.applied(change.revision).await?;
                }
            }
            FeedEvent::Resync(resync) => println!("changes were missed; everything follows from {}", resync.from),
        }
    }
    Ok(())
}
