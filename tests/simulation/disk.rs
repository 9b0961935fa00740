//! A node's disk in memory, which outlives its agent.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use landfall_agent::seams::Storage;
use landfall_proto::Refusal;
use landfall_proto::id::NodeName;
use landfall_store::files::{Files, MemoryFiles};
use landfall_store::kv::Kv;
use landfall_store::memory_kv::MemoryKv;

/// How long a sync takes: a server's flash.
const SYNC: Duration = Duration::from_millis(1);

/// One disk. Clones are handles to the same.
#[derive(Clone, Debug)]
pub struct SimDisk {
    kv: MemoryKv,
    files: MemoryFiles,
}

impl SimDisk {
    pub fn new() -> Self {
        let kv = MemoryKv::new();
        kv.set_latency(SYNC);
        Self { kv, files: MemoryFiles::new() }
    }

    /// Lets no write return, or those that wait and all later ones.
    pub fn hang(&self, hangs: bool) {
        self.kv.hang(hangs);
    }

    /// What a copy of it has.
    pub fn copy(&self) -> DiskCopy {
        DiskCopy(self.kv.durable())
    }

    /// Has nothing but what `copy` has.
    pub fn put_back(&self, copy: DiskCopy) {
        self.kv.put_back(copy.0);
    }

    /// Loses what was not durable yet.
    pub fn cut_power(&self) {
        self.kv.cut();
    }
}

/// What a disk had once.
pub struct DiskCopy(BTreeMap<Vec<u8>, Vec<u8>>);

impl Storage for SimDisk {
    fn store(&self, _folder: &Path, _owner: &NodeName) -> Result<Arc<dyn Kv>, Refusal> {
        Ok(Arc::new(self.kv.clone()))
    }

    fn files(&self, _folder: &Path) -> Result<Arc<dyn Files>, Refusal> {
        Ok(Arc::new(self.files.clone()))
    }

    /// Only what a node that has never been a member asks for: nothing is there.
    fn set_aside(&self, folder: &Path, names: &[&str], aside: &str) -> Result<PathBuf, Refusal> {
        let there = names.iter().find(|name| !matches!(self.files.read(name), Ok(None)));
        assert_eq!(there, None, "leaving a cluster is not simulated");
        Ok(folder.join(aside))
    }
}
