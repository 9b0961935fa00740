//! The processes of a node: the agent, and the `directory` VM service that it starts where none runs.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use landfall_proto::{Class, Refusal};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{Faults, NodeConfig};
use crate::drive::api::{LocalSocket, serve};
use crate::drive::attach::{Remote, Spawn, Spawned, run as run_vm_service};
use crate::drive::directory::service_socket;
use crate::drive::events::Happening;
use crate::drive::operations;
use crate::vm_service::VmService;
use crate::{Agent, Seams};

/// What is logged where `LANDFALL_LOG` says nothing: consensus and gossip repeat themselves about every dead peer.
const LOG_DEFAULT: &str = "info,openraft=off,chitchat=warn,quinn=warn,quinn_proto=warn,rustls=warn";

/// Threads that run tasks. Work on disks has threads of its own, and hashes and compresses there; what is left is packets
/// and decisions, for which a second thread costs more in handing over than it brings (docs/benchmark.md, Locate).
const WORKERS: usize = 1;

/// How often the agent looks whether the node's VM service answers.
const VM_SERVICE_LOOK: Duration = Duration::from_secs(3);

/// Runs the agent of the node whose file is `file`, until it is told to stop (SIGTERM, SIGINT).
pub fn agent(file: &Path) -> Result<(), Vec<Refusal>> {
    let config = load(file)?;
    start_log();
    if let Some(notice) = config.testing.notice() {
        tracing::warn!("{notice}");
    }
    let file = absolute(file)?;
    runtime()?.block_on(run(config, file)).map_err(|refusal| vec![refusal])
}

async fn run(config: NodeConfig, file: PathBuf) -> Result<(), Refusal> {
    let stop = stopped()?;
    let socket = LocalSocket::bind(&config.socket)?;
    let vm_path = config.vm_service.as_ref().map(|service| service.path.clone());
    let service = vm_path.as_ref().map(|path| Arc::new(Remote::new(service_socket(path))) as Arc<dyn VmService>);
    let agent = Agent::start(config, Seams::machine(), service).await?;
    tracing::info!(node = %agent.config().node, control = %agent.config().listen, "agent runs");
    let keeping = vm_path.map(|path| tokio::spawn(keep_vm_service(agent.clone(), Spawn::own(&file, &path))));
    let mut broken = None;
    let ended = async {
        tokio::select! {
            () = stop => agent.retire().await,
            refusal = agent.broken() => broken = Some(refusal),
        }
    };
    serve(socket, operations::of(&agent), ended).await;
    tracing::info!("stopping");
    if let Some(keeping) = keeping {
        keeping.abort();
    }
    agent.stop().await;
    broken.map_or(Ok(()), Err)
}

/// Starts the VM service wherever none answers, at first and whenever it is gone.
async fn keep_vm_service(agent: Agent, spawn: Spawn) {
    let mut failing = false;
    loop {
        match spawn.ensure().await {
            Ok(Spawned::Answers) => failing = false,
            Ok(Spawned::Started(pid)) => {
                failing = false;
                let told = format!("the node's VM service was started (process {pid})");
                agent.events().record(Happening::info("vm_service_started", told).node(&agent.config().node));
            }
            Err(refusal) if failing => tracing::debug!(%refusal, "the VM service still does not start"),
            Err(refusal) => {
                failing = true;
                let happening = Happening::warning("vm_service_not_started", refusal.to_string());
                agent.events().record(happening.node(&agent.config().node));
            }
        }
        sleep(VM_SERVICE_LOOK).await;
    }
}

/// Runs the `directory` VM service of the node whose file is `file`, until it is told to stop.
pub fn vm_service(file: &Path) -> Result<(), Vec<Refusal>> {
    let config = load(file)?;
    start_log();
    runtime()?
        .block_on(async move {
            let stop = stopped()?;
            run_vm_service(&config, Arc::clone(&Seams::machine().outside.clock), stop).await
        })
        .map_err(|refusal| vec![refusal])
}

/// Checks a node's file; every fault of it.
pub fn check(file: &Path) -> Result<(), Vec<Refusal>> {
    load(file).map(drop)
}

fn load(file: &Path) -> Result<NodeConfig, Vec<Refusal>> {
    NodeConfig::load(file).map_err(|faults| refusals(&faults))
}

/// Each fault with its place in front.
fn refusals(faults: &Faults) -> Vec<Refusal> {
    let placed = |fault: &crate::config::Fault| {
        let mut refusal = fault.refusal.clone();
        refusal.message = format!("{}:{}: {}", faults.file.display(), fault.line, refusal.message);
        refusal
    };
    faults.faults.iter().map(placed).collect()
}

fn absolute(file: &Path) -> Result<PathBuf, Vec<Refusal>> {
    std::path::absolute(file)
        .map_err(|error| vec![Refusal::invalid("config", &file.to_string_lossy(), &error.to_string())])
}

fn runtime() -> Result<Runtime, Vec<Refusal>> {
    Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build().map_err(|error| {
        vec![Refusal::new(Class::Failed, "no_runtime", format!("the process cannot start its threads: {error}"))]
    })
}

fn start_log() {
    let wanted = std::env::var("LANDFALL_LOG").ok().and_then(|wanted| wanted.parse::<Targets>().ok());
    let filter = wanted.or_else(|| LOG_DEFAULT.parse().ok()).unwrap_or_default();
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let log = tracing_subscriber::registry().with(lines.with_ansi(std::io::stderr().is_terminal())).with(filter);
    // A program that embeds both processes has one log, and has it already.
    drop(log.try_init());
}

/// Done when the process is told to stop.
fn stopped() -> Result<impl Future<Output = ()> + Send + 'static, Refusal> {
    let listen =
        |kind| signal(kind).map_err(|error| Refusal::new(Class::Failed, "no_signals", format!("signals: {error}")));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
