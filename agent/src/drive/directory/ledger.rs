//! What the service must remember over its own death: which VMs run as which processes, which were stopped on purpose,
//! and numbers that are never given twice.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use landfall_proto::id::{UnixMillis, VmId};
use landfall_proto::{Class, Refusal};
use serde::{Deserialize, Serialize};

use super::group::Session;
use super::owner::PRIVATE;
use super::{durable, locked};

/// The largest ledger that is read: 4,096 VMs of a few hundred bytes, with room.
const LEDGER_MAX: u64 = 8 << 20;
/// VMs that are locked at one time: as many as a cluster replicates.
const LOCKED_MAX: usize = 8192;
/// Numbers that are reserved by one write of the ledger.
const RESERVE: u64 = 1 << 16;

/// Whether a VM should run when the service finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Wish {
    /// It was found and has a command: start it.
    Start,
    /// It was stopped on purpose, and stays so.
    Stopped,
    /// It was started and has ended by itself. Restarting it is not this service's business, until the machine restarts.
    Ended,
    /// It was started.
    Running,
}

/// What is remembered of one VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Its folder.
    pub folder: PathBuf,
    /// Whether it should run.
    pub wish: Wish,
    /// The mark of its processes, written before they are started.
    pub token: Option<String>,
    /// The first of its processes.
    pub session: Option<Session>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Content {
    version: u32,
    boot: String,
    next: u64,
    vms: BTreeMap<VmId, Entry>,
    /// VMs that may not be started, here or not.
    #[serde(default)]
    locked: BTreeSet<VmId>,
}

const VERSION: u32 = 1;

/// The ledger of one VM path. Every change is on disk before the call returns.
#[derive(Debug)]
pub(super) struct Ledger {
    file: PathBuf,
    content: Mutex<(Content, u64)>,
}

impl Ledger {
    /// Opens the ledger of `path`. One that cannot be read is set aside, and everything counts as newly found.
    pub(super) fn open(path: &Path, boot: &str, wall: UnixMillis) -> Result<Self, Refusal> {
        let file = path.join(PRIVATE).join("vms.json");
        let bytes = durable::read(&file, LEDGER_MAX).map_err(|error| unusable(&file, &error))?;
        let read = bytes.map(|bytes| serde_json::from_slice::<Content>(&bytes));
        let mut content = match read {
            Some(Ok(content)) if content.version == VERSION => content,
            Some(_) => {
                let aside = file.with_extension("json.unreadable");
                tracing::error!(file = %file.display(), aside = %aside.display(), "the ledger of VMs is unreadable and set aside");
                std::fs::rename(&file, &aside).map_err(|error| unusable(&file, &error))?;
                Content::fresh(boot, wall)
            }
            None => Content::fresh(boot, wall),
        };
        if content.boot != boot {
            content.boot = boot.to_owned();
            for entry in content.vms.values_mut() {
                entry.session = None;
                entry.token = None;
                if entry.wish != Wish::Stopped {
                    entry.wish = Wish::Start;
                }
            }
        }
        // What an earlier life reserved and did not use is never used.
        let first = content.next;
        content.next = first + RESERVE;
        let ledger = Self { file, content: Mutex::new((content, first)) };
        ledger.save(&locked(&ledger.content).0)?;
        Ok(ledger)
    }

    /// A number that this path never gave before.
    pub(super) fn number(&self) -> Result<u64, Refusal> {
        let (content, given) = &mut *locked(&self.content);
        if *given == content.next {
            content.next += RESERVE;
            if let Err(refusal) = self.save(content) {
                content.next -= RESERVE;
                return Err(refusal);
            }
        }
        *given += 1;
        Ok(*given - 1)
    }

    /// What is remembered of `vm`.
    pub(super) fn get(&self, vm: VmId) -> Option<Entry> {
        locked(&self.content).0.vms.get(&vm).cloned()
    }

    /// Everything that is remembered.
    pub(super) fn all(&self) -> BTreeMap<VmId, Entry> {
        locked(&self.content).0.vms.clone()
    }

    /// Remembers `entry` of `vm`, or forgets it.
    pub(super) fn set(&self, vm: VmId, entry: Option<Entry>) -> Result<(), Refusal> {
        let (content, _) = &mut *locked(&self.content);
        if content.vms.get(&vm) == entry.as_ref() {
            return Ok(());
        }
        let old = match entry {
            Some(entry) => content.vms.insert(vm, entry),
            None => content.vms.remove(&vm),
        };
        let saved = self.save(content);
        if saved.is_err() {
            match old {
                Some(old) => content.vms.insert(vm, old),
                None => content.vms.remove(&vm),
            };
        }
        saved
    }

    /// Whether `vm` may not be started.
    pub(super) fn is_locked(&self, vm: VmId) -> bool {
        locked(&self.content).0.locked.contains(&vm)
    }

    /// Keeps `vm` from being started, or gives it free.
    pub(super) fn lock(&self, vm: VmId, lock: bool) -> Result<(), Refusal> {
        let (content, _) = &mut *locked(&self.content);
        if content.locked.contains(&vm) == lock {
            return Ok(());
        }
        if lock && content.locked.len() >= LOCKED_MAX {
            return Err(Refusal::new(Class::Failed, "too_many", format!("{LOCKED_MAX} VMs are locked, the most")));
        }
        let change = |content: &mut Content, lock: bool| match lock {
            true => content.locked.insert(vm),
            false => content.locked.remove(&vm),
        };
        change(content, lock);
        let saved = self.save(content);
        if saved.is_err() {
            change(content, !lock);
        }
        saved
    }

    fn save(&self, content: &Content) -> Result<(), Refusal> {
        let bytes = serde_json::to_vec_pretty(content).map_err(|error| unusable(&self.file, &error))?;
        durable::replace(&self.file, &bytes).map_err(|error| unusable(&self.file, &error))
    }
}

impl Content {
    /// Numbers begin at the wall clock, so that a lost ledger does not give those of the lost one again.
    fn fresh(boot: &str, wall: UnixMillis) -> Self {
        Self {
            version: VERSION,
            boot: boot.to_owned(),
            next: wall.0.max(1),
            vms: BTreeMap::new(),
            locked: BTreeSet::new(),
        }
    }
}

fn unusable(file: &Path, error: &dyn std::fmt::Display) -> Refusal {
    Refusal::new(Class::Failed, "vm_path_unusable", format!("{}: {error}", file.display()))
        .field("vm_service.path")
        .remedy("make room and make the folder writable for the VM service")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path, boot: &str) -> Ledger {
        std::fs::create_dir_all(path.join(PRIVATE)).unwrap();
        Ledger::open(path, boot, UnixMillis(1000)).unwrap()
    }

    #[test]
    fn numbers_never_repeat_over_restarts_and_a_lost_ledger() {
        let path = tempfile::tempdir().unwrap();
        let first = open(path.path(), "b").number().unwrap();
        let second = open(path.path(), "b").number().unwrap();
        assert!(second > first);
        let ledger = open(path.path(), "b");
        let mut last = second;
        for _ in 0..RESERVE + 3 {
            let number = ledger.number().unwrap();
            assert!(number > last);
            last = number;
        }
        drop(ledger);
        assert!(open(path.path(), "b").number().unwrap() > last);
        std::fs::write(path.path().join(PRIVATE).join("vms.json"), b"{").unwrap();
        assert_eq!(open(path.path(), "b").number().unwrap(), 1000);
        assert!(path.path().join(PRIVATE).join("vms.json.unreadable").exists());
    }

    #[test]
    fn a_restart_of_the_machine_starts_all_but_what_was_stopped() {
        let path = tempfile::tempdir().unwrap();
        let entry = |wish| Entry {
            folder: "/v".into(),
            wish,
            token: Some("t".into()),
            session: Some(Session { pid: 5, start: 6 }),
        };
        let ids: Vec<VmId> = (1..4).map(|n| VmId(uuid::Uuid::from_u128(n))).collect();
        let ledger = open(path.path(), "b");
        for (id, wish) in ids.iter().zip([Wish::Running, Wish::Ended, Wish::Stopped]) {
            ledger.set(*id, Some(entry(wish))).unwrap();
        }
        let same = open(path.path(), "b");
        assert_eq!(same.get(ids[0]), Some(entry(Wish::Running)));
        let other = open(path.path(), "c");
        let wishes: Vec<Wish> = other.all().values().map(|entry| entry.wish).collect();
        assert_eq!(wishes, [Wish::Start, Wish::Start, Wish::Stopped]);
        assert!(other.all().values().all(|entry| entry.session.is_none()));
    }
}
