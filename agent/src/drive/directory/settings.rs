//! The settings that this service has applied: `<path>/.landfall/settings.json`, which whoever wants to know reads.

use std::path::{Path, PathBuf};

use landfall_proto::{Class, Refusal};

use super::durable;
use super::owner::PRIVATE;
use crate::vm_service::SettingsView;

/// The largest settings file that is read.
const SETTINGS_MAX: u64 = 1 << 20;

/// Where the service of the VM path `path` keeps the settings it has applied.
pub fn settings_file(path: &Path) -> PathBuf {
    path.join(PRIVATE).join("settings.json")
}

/// The settings that the service of the VM path `path` has applied; `None` before the first.
pub fn applied_settings(path: &Path) -> Result<Option<SettingsView>, Refusal> {
    let file = settings_file(path);
    let bytes = durable::read(&file, SETTINGS_MAX).map_err(|error| unusable(&file, &error))?;
    bytes.map(|bytes| serde_json::from_slice(&bytes).map_err(|error| unusable(&file, &error))).transpose()
}

/// Takes the settings over, durably. The agent's view is the truth, whatever was applied before.
pub(super) fn apply(path: &Path, settings: &SettingsView) -> Result<(), Refusal> {
    let file = settings_file(path);
    let bytes = serde_json::to_vec_pretty(settings).map_err(|error| unusable(&file, &error))?;
    durable::replace(&file, &bytes).map_err(|error| unusable(&file, &error))
}

fn unusable(file: &Path, error: &dyn std::fmt::Display) -> Refusal {
    Refusal::new(Class::Failed, "settings_not_applied", format!("{}: {error}", file.display()))
        .field("vm_service.path")
        .remedy("make room and make the folder writable; the agent sends the settings again")
}
