//! Everything of the outside that an agent touches, in one place, so that all of it can be simulated.

use std::path::Path;
use std::sync::Arc;

use landfall_proto::id::NodeName;
use landfall_proto::seam::Outside;
use landfall_proto::{Class, Refusal};
use landfall_store::durable_sled::DurableSled;
use landfall_store::files::{DiskFiles, Files};
use landfall_store::kv::Kv;

/// Opens the key-value store and the small files of a data folder.
pub trait Storage: Send + Sync + 'static {
    /// The store in `folder`, which belongs to the node called `owner`. A store that does not open is left as it is.
    fn store(&self, folder: &Path, owner: &NodeName) -> Result<Arc<dyn Kv>, Refusal>;
    /// The small files in `folder`.
    fn files(&self, folder: &Path) -> Result<Arc<dyn Files>, Refusal>;
}

/// The outside of one agent.
#[derive(Clone)]
pub struct Seams {
    /// Time, randomness, sockets, cryptography.
    pub outside: Outside,
    /// The disk of its own state. (Replicas and images are files that QEMU and people read too: they are always real.)
    pub storage: Arc<dyn Storage>,
}

impl Seams {
    /// The machine itself.
    pub fn machine() -> Self {
        Self { outside: Outside::machine(), storage: Arc::new(Disk) }
    }
}

/// The machine's disk.
struct Disk;

impl Storage for Disk {
    fn store(&self, folder: &Path, owner: &NodeName) -> Result<Arc<dyn Kv>, Refusal> {
        let store = DurableSled::open(folder, owner).map_err(|error| error.refusal())?;
        Ok(Arc::new(store))
    }

    fn files(&self, folder: &Path) -> Result<Arc<dyn Files>, Refusal> {
        let files = DiskFiles::open(folder).map_err(|error| {
            let message = format!("data_dir: {} cannot be used: {error}", folder.display());
            Refusal::new(Class::Failed, "data_folder", message)
                .field("data_dir")
                .remedy("make it a folder that the agent's user may write")
        })?;
        Ok(Arc::new(files))
    }
}
