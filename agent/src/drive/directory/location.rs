//! The storage locations for replicas: how much room they have, and whether something can be stored there just now.
//!
//! A probe writes and syncs a small file, in a task of its own: a hung disk makes the report say so, it never holds the
//! report up.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use landfall_proto::seam::{Clock, Time};
use tokio::task::spawn_blocking;

use super::locked;
use crate::config::StorageConfig;
use crate::vm_service::StorageReport;

/// How often a location is probed: a holder that cannot stage is noticed within `node_down_after`.
pub(super) const PROBE_EVERY: Duration = Duration::from_secs(1);
/// A probe that takes longer is told as a fault: the worst sync on a busy machine took 0.3 s when it was measured.
const PROBE_SLOW: Duration = Duration::from_secs(3);
/// The probe's file.
const PROBE_FILE: &str = ".landfall-probe";

/// One location, and what the last probe found.
#[derive(Debug)]
pub(super) struct Location {
    config: StorageConfig,
    found: Mutex<Found>,
}

#[derive(Debug, Default)]
struct Found {
    free_bytes: u64,
    fault: Option<String>,
    /// When the probe under way began.
    since: Option<Time>,
    probed: bool,
}

impl Location {
    pub(super) fn new(config: StorageConfig) -> Arc<Self> {
        Arc::new(Self { config, found: Mutex::default() })
    }

    /// What is known now.
    pub(super) fn report(&self, clock: &dyn Clock) -> StorageReport {
        let found = locked(&self.found);
        let hung = found.since.map(|since| clock.now().since(since)).filter(|age| *age > PROBE_SLOW);
        let path = self.config.path.display();
        let fault = match hung {
            Some(age) => Some(format!("{path}: a write has been waiting for {} s; look at its disk", age.as_secs())),
            None if !found.probed => Some(format!("{path}: not yet probed")),
            None => found.fault.clone(),
        };
        StorageReport {
            name: self.config.name.clone(),
            path: self.config.path.clone(),
            free_bytes: found.free_bytes,
            fault,
        }
    }

    /// Probes, unless the last probe is still under way.
    pub(super) async fn probe(self: Arc<Self>, clock: Arc<dyn Clock>) {
        {
            let mut found = locked(&self.found);
            if found.since.is_some() {
                return;
            }
            found.since = Some(clock.now());
        }
        let location = self.clone();
        let probed = spawn_blocking(move || {
            let result = probe(&location.config.path);
            let mut found = locked(&location.found);
            found.since = None;
            found.probed = true;
            (found.free_bytes, found.fault) = match result {
                Ok(free) => (free, None),
                Err(error) => (0, Some(format!("{}: {error}", location.config.path.display()))),
            };
        });
        _ = tokio::time::timeout(PROBE_SLOW, probed).await;
    }
}

/// Bytes free at `path`, once a write there was synced.
fn probe(path: &Path) -> std::io::Result<u64> {
    if !File::open(path)?.metadata()?.is_dir() {
        return Err(std::io::Error::other("not a folder"));
    }
    let name = path.join(PROBE_FILE);
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(name)?;
    file.write_all(b"Landfall writes here to see whether it can.\n")?;
    file.sync_all()?;
    let room = rustix::fs::statvfs(path)?;
    Ok(room.f_bavail.saturating_mul(room.f_frsize))
}
