//! Asks a cluster's CAP as a primary would: pairs a throw-away standalone server with it, then probes and places.
//!
//! ```sh
//! landfall peer invite                                   # at the cluster to be asked; prints a code
//! cargo run --example ask_cap -- CODE
//! ```
//!
//! The answer to the probe says whether this server may replicate there, and if not, what would allow it. Afterwards
//! `landfall peer remove asker.example.org` forgets it.

use std::path::Path;
use std::time::Duration;

use landfall_agent::config::NodeConfig;
use landfall_agent::surface::Operations;
use landfall_agent::surface::peer::PeerAccept;
use landfall_agent::{Agent, Seams};
use landfall_proto::client::BrokerClient;

/// How long the CAP may take: an owner's death and its successor's claim fit.
const DEADLINE: Duration = Duration::from_secs(15);

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let code = std::env::args().nth(1).ok_or("give the code that `landfall peer invite` printed")?;
    let folder = std::env::temp_dir().join(format!("landfall-asker-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let text = format!(
        "node = \"asker\"\ndata_dir = \"{0}/data\"\nlisten = \"127.0.0.1:{1}\"\ndata_listen = \"127.0.0.1:{2}\"\n\
         socket = \"{0}/sock\"\n\
         [vm_service]\nkind = \"directory\"\npath = \"{0}/vms\"\n[[storage]]\nname = \"default\"\npath = \"{0}/replicas\"\n",
        folder.display(),
        free_port()?,
        free_port()?
    );
    let agent = Agent::start(NodeConfig::parse(Path::new("asker.toml"), &text)?, Seams::machine(), None).await?;
    agent.found("Asker".parse()?, "asker.example.org".parse()?, None).await?;
    agent.cluster_status().await?;
    let peer = agent.peer_accept(PeerAccept { code, wait_seconds: None }).await?;
    let membership = agent.member()?;
    let agents = peer.members.iter().map(|member| member.address).collect();
    let broker = BrokerClient::new(membership.control.node.calls.clone(), peer.cap.clone(), agents);
    let probed = broker.probe(DEADLINE).await?;
    println!("{} is answered by {:?}", peer.cap, probed.agents);
    match probed.authorized {
        Ok(()) => println!("this server may replicate there"),
        Err(refusal) => println!("this server may not replicate there: {refusal}"),
    }
    agent.stop().await;
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

/// A UDP port that was free a moment ago.
fn free_port() -> std::io::Result<u16> {
    Ok(std::net::UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port())
}
