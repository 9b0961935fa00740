//! Everything of the outside that an agent touches, in one place, so that all of it can be simulated.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use landfall_proto::id::NodeName;
use landfall_proto::seam::Outside;
use landfall_proto::{Class, Refusal};
use landfall_store::durable_sled::DurableSled;
use landfall_store::files::{DiskFiles, Files};
use landfall_store::kv::Kv;

use crate::drive::cap_address::host::{Hosts, MachineHosts};

/// Opens the key-value store and the small files of a data folder.
pub trait Storage: Send + Sync + 'static {
    /// The store in `folder`, which belongs to the node called `owner`. A store that does not open is left as it is.
    fn store(&self, folder: &Path, owner: &NodeName) -> Result<Arc<dyn Kv>, Refusal>;
    /// The small files in `folder`.
    fn files(&self, folder: &Path) -> Result<Arc<dyn Files>, Refusal>;
    /// Moves `names` in `folder`, files and folders, those that are there and in this order, into a folder of their own
    /// beside them, called `aside`; nothing where there are none. Each is in one place or the other, whatever happens.
    fn set_aside(&self, folder: &Path, names: &[&str], aside: &str) -> Result<PathBuf, Refusal>;
}

/// The outside of one agent.
#[derive(Clone)]
pub struct Seams {
    /// Time, randomness, sockets, cryptography.
    pub outside: Outside,
    /// The disk of its own state. (Replicas and images are files that QEMU and people read too: they are always real.)
    pub storage: Arc<dyn Storage>,
    /// The interfaces that the CAP's address is held on.
    pub hosts: Arc<dyn Hosts>,
}

impl Seams {
    /// The machine itself.
    pub fn machine() -> Self {
        Self { outside: Outside::machine(), storage: Arc::new(Disk), hosts: Arc::new(MachineHosts) }
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

    fn set_aside(&self, folder: &Path, names: &[&str], aside: &str) -> Result<PathBuf, Refusal> {
        let to = folder.join(aside);
        move_into(folder, names, &to).map_err(|error| {
            let message = format!("{} cannot be moved into {}: {error}", names.join(", "), to.display());
            Refusal::new(Class::Failed, "data_folder", message)
                .field("data_dir")
                .remedy("mend the file system, then stop the agent and move what is left of them by hand")
        })?;
        Ok(to)
    }
}

fn move_into(folder: &Path, names: &[&str], to: &Path) -> io::Result<()> {
    for name in names {
        if !folder.join(name).try_exists()? {
            continue;
        }
        if !to.is_dir() {
            fs::create_dir(to)?;
        }
        fs::rename(folder.join(name), to.join(name))?;
        File::open(to)?.sync_all()?;
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}
