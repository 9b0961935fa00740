//! Embeds an agent in a program of one's own: a cluster of one, without the `landfall` binary.
//!
//! ```sh
//! cargo run --example embed_agent
//! ```
//!
//! The program brings no VM service, so the agent says so; see `own_vm_service` for one that does.

use std::path::Path;

use landfall_agent::config::NodeConfig;
use landfall_agent::surface::Operations;
use landfall_agent::{Agent, Seams};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::temp_dir().join(format!("landfall-embedded-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let text = format!(
        "node = \"e1\"\ndata_dir = \"{0}/data\"\nlisten = \"127.0.0.1:{1}\"\ndata_listen = \"127.0.0.1:{2}\"\n\
         socket = \"{0}/sock\"\n\
         [vm_service]\nkind = \"directory\"\npath = \"{0}/vms\"\n[[storage]]\nname = \"default\"\npath = \"{0}/replicas\"\n",
        folder.display(),
        free_port()?,
        free_port()?
    );
    let config = NodeConfig::parse(Path::new("embedded.toml"), &text)?;
    let agent = Agent::start(config, Seams::machine(), None).await?;
    agent.found("Example".parse()?, "broker.example.org".parse()?, None).await?;
    let status = agent.cluster_status().await?;
    println!("{}: owner {:?}, term {:?}", status.cluster, status.owner, status.term);
    agent.stop().await;
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

/// A UDP port that was free a moment ago.
fn free_port() -> std::io::Result<u16> {
    Ok(std::net::UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port())
}
