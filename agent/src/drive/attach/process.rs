//! The process of the `directory` VM service: `landfall vm-service --config FILE`.

use std::sync::Arc;

use landfall_proto::seam::Clock;
use landfall_proto::{Class, Refusal};

use super::link::Link;
use super::serve::{listen, serve};
use super::socket_link::SocketLink;
use crate::config::NodeConfig;
use crate::drive::directory::{Directory, Ficlone, Launcher, Options, SCAN_EVERY, service_socket};

/// Serves the node's VM path until `stop`: over its own socket, and attached to the node's agent whenever that is there.
///
/// The process leaves the session of whoever started it, so that it outlives an agent. VMs go on when it ends.
pub async fn run(
    config: &NodeConfig,
    clock: Arc<dyn Clock>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Refusal> {
    let Some(vm_service) = &config.vm_service else {
        return Err(Refusal::new(Class::Usage, "no_vm_service", format!("node {} has no [vm_service]", config.node))
            .field("vm_service")
            .remedy("a witness hosts no VM: run the VM service on another node"));
    };
    let options = Options {
        node: config.node.clone(),
        path: vm_service.path.clone(),
        storage: config.storage.clone(),
        scan_every: SCAN_EVERY,
        clock,
        reflink: Arc::new(Ficlone),
        launcher: Launcher::default(),
    };
    run_with(config, options, stop).await
}

/// As [`run`], with the service made as `options` say.
pub(super) async fn run_with(
    config: &NodeConfig,
    options: Options,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Refusal> {
    // A job of a terminal leads its group already and stays where it is: there it is meant to be seen.
    _ = rustix::process::setsid();
    let path = options.path.clone();
    let directory = Arc::new(Directory::open(options).await?);
    let listener = listen(&service_socket(&path))?;
    let link = Link::new(directory.clone(), Arc::new(SocketLink::new(&config.socket)));
    tracing::info!(node = %config.node, path = %path.display(), "VM service runs");
    tokio::select! {
        served = serve(directory, listener, std::future::pending()) => served,
        () = link.run() => Ok(()),
        () = stop => Ok(()),
    }
}
