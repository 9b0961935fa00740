//! One VM of the service: what its folder says, what its processes do, what is shown of it.
//!
//! Whoever does something to a VM holds its [`Core`]; what everybody sees is a copy apart from it ([`Vm::shown`]), so
//! that a hung disk under one VM holds up that VM alone.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, TryLockError};
use std::time::Duration;

use landfall_proto::id::VmId;
use landfall_proto::seam::Time;
use landfall_proto::{Class, Refusal};

use super::foreign::{self, FileId, Holders};
use super::freeze::{self, Mark};
use super::group::{END_GRACE, Group};
use super::launch::Job;
use super::ledger::Wish;
use super::process::Processes;
use super::vm_core::Core;
use super::vm_file::VmFile;
use super::{Inner, instant, locked};
use crate::vm_service::{VmReport, VmRole};

/// How long a VM's images may keep a look at them waiting before that is a fault.
const LOOK_SLOW: Duration = Duration::from_secs(5);

/// One VM.
pub(super) struct Vm {
    /// What acting on it needs.
    pub core: Mutex<Core>,
    /// Whether its folder is gone and its processes are being ended.
    pub retiring: AtomicBool,
    shown: Mutex<VmReport>,
    looked: Mutex<Option<Time>>,
}

/// What one look at the machine showed.
#[derive(Default)]
pub(super) struct Look {
    /// Its processes.
    pub processes: Processes,
    /// Who has images open for writing.
    pub writers: Holders,
    /// Who has files locked.
    pub lockers: Holders,
}

impl Vm {
    /// A VM that was just found: its processes are adopted where it has any.
    pub(super) fn found(inner: &Inner, id: VmId, folder: &Path, file: VmFile, fault: Option<Refusal>) -> Arc<Self> {
        let remembered = inner.ledger.get(id).filter(|entry| entry.folder == folder || !entry.folder.exists());
        let mut wish = remembered.as_ref().map_or(Wish::Start, |entry| entry.wish);
        let group = remembered.as_ref().and_then(|entry| {
            let processes = Processes::read().ok()?;
            Group::adopt(entry.session, entry.token.as_deref()?, &processes)
        });
        let frozen = Mark::of(&inner.options.path, id).clear();
        match &group {
            Some(group) => {
                // An earlier life has died in the middle of a freeze. What anybody else has stopped stays as it is.
                if frozen {
                    group.session.go_on();
                }
                tracing::info!(vm = %id, session = group.session.pid, "VM adopted");
            }
            None if wish == Wish::Running => wish = Wish::Ended,
            None => {}
        }
        instant::remove_leftovers(id, file.disks.iter().map(|disk| disk.path.clone()));
        let mut core = Core {
            id,
            folder: folder.to_owned(),
            file,
            file_fault: fault,
            twin: None,
            group,
            run: 0,
            wish,
            no_reflink: false,
            images: Vec::new(),
            prints: Vec::new(),
            steady: false,
        };
        core.renumber(inner);
        let shown = Mutex::new(core.report(None, false));
        Arc::new(Self { core: Mutex::new(core), retiring: AtomicBool::new(false), shown, looked: Mutex::default() })
    }

    /// What everybody sees.
    pub(super) fn shown(&self) -> VmReport {
        locked(&self.shown).clone()
    }

    /// The files of its images, as far as they are known.
    pub(super) fn files(&self) -> Vec<FileId> {
        let core = match self.core.try_lock() {
            Ok(core) => core,
            Err(TryLockError::Poisoned(core)) => core.into_inner(),
            Err(TryLockError::WouldBlock) => return Vec::new(),
        };
        core.prints.iter().flatten().map(|print| print.file).collect()
    }

    /// Looks at the VM anew, starts it where it should run, and shows what was found.
    pub(super) fn look(&self, inner: &Inner, look: &Look) {
        let now = inner.options.clock.now();
        let mut core = match self.core.try_lock() {
            Ok(core) => core,
            Err(TryLockError::Poisoned(core)) => core.into_inner(),
            Err(TryLockError::WouldBlock) => {
                self.note_wait(now);
                return;
            }
        };
        *locked(&self.looked) = Some(now);
        core.notice_end(inner, &look.processes);
        core.end_replica(inner);
        let image_fault = core.look_at_images(inner);
        let own = core.group.as_ref().map(|group| group.session.pid);
        let (mut writer, mut locker) = (None, None);
        if core.file.role != VmRole::Replica {
            for (disk, print) in core.file.disks.iter().zip(&core.prints) {
                let Some(file) = print.map(|print| print.file) else { continue };
                let stranger = |holders| foreign::stranger(holders, file, own);
                writer =
                    writer.or_else(|| stranger(&look.writers).map(|holder| foreign::written(&disk.path, &holder.name)));
                locker =
                    locker.or_else(|| stranger(&look.lockers).map(|holder| foreign::locked(&disk.path, &holder.name)));
            }
        }
        if writer.is_some() && core.group.is_none() {
            core.renumber(inner);
        }
        let mut fault = core.fault().or(image_fault).or(locker);
        if core.wish == Wish::Start
            && core.may_run()
            && !inner.ledger.is_locked(core.id)
            && core.steady
            && fault.is_none()
            && writer.is_none()
        {
            fault = self.start_found(inner, &mut core);
        }
        core.bound_logs();
        self.show(core.report(fault, writer.is_some()));
        *locked(&self.looked) = None;
    }

    /// Reads the table of processes, and shows at once where the VM has ended.
    pub(super) fn notice(&self, inner: &Inner, core: &mut Core) -> Result<Processes, Refusal> {
        let processes = Processes::read().map_err(|error| super::unreadable("/proc", &error))?;
        if core.notice_end(inner, &processes) {
            self.show(core.report(self.shown().fault, false));
        }
        Ok(processes)
    }

    /// Starts a VM because it was found. One whose images are locked is tried again at the next look.
    fn start_found(&self, inner: &Inner, core: &mut Core) -> Option<Refusal> {
        if inner.freezes.of(self).is_some() {
            return None;
        }
        let refusal = self.launch(inner, core).err()?;
        if refusal.code == "image_locked" {
            return Some(refusal);
        }
        tracing::warn!(vm = %core.id, err = %refusal, "VM found, but it does not start");
        core.wish = Wish::Ended;
        None
    }

    /// Starts the VM's command.
    pub(super) fn start(&self, inner: &Inner) -> Result<(), Refusal> {
        let mut core = locked(&self.core);
        let processes = self.notice(inner, &mut core)?;
        let refused = |code, why: &str, remedy: &str| {
            Refusal::new(Class::Refused, code, format!("VM {} {why}", core.id)).field("vm").remedy(remedy)
        };
        if core.file.role == VmRole::Replica {
            return Err(refused("vm_is_replica", "is a replica here", "a failover makes it startable"));
        }
        if core.group.is_some() {
            return Ok(());
        }
        if inner.ledger.is_locked(core.id) {
            let remedy = "its right to run is given to another cluster: see `landfall failover status`";
            return Err(refused("vm_locked", "is locked here", remedy));
        }
        if let Some(fault) = core.fault() {
            return Err(fault);
        }
        if core.file.command.is_empty() {
            return Err(refused("no_command", "has no command", "add command = [...] to its vm.toml"));
        }
        if inner.freezes.of(self).is_some() {
            return Err(freeze::frozen(self));
        }
        if let Some(fault) = core.look_at_images(inner) {
            return Err(fault);
        }
        let files = core.prints.iter().flatten().map(|print| print.file).collect();
        let writers = foreign::writers(&files, &processes);
        for (disk, print) in core.file.disks.iter().zip(core.prints.iter().flatten()) {
            if let Some(holder) = foreign::stranger(&writers, print.file, None) {
                return Err(foreign::written(&disk.path, &holder.name));
            }
        }
        self.launch(inner, &mut core)?;
        self.show(core.report(None, false));
        Ok(())
    }

    /// Stops the VM for good: it is not started again because it is found.
    pub(super) fn stop(&self, inner: &Inner) -> Result<(), Refusal> {
        let mut core = locked(&self.core);
        let ran = core.group.is_some();
        self.end_processes(inner, &mut core)?;
        if core.file.role != VmRole::Replica {
            core.wish = match (inner.ledger.is_locked(core.id), ran, core.wish) {
                (false, ..) => Wish::Stopped,
                // Stopped only because it is locked: it goes on once it is given free.
                (true, true, _) => Wish::Start,
                (true, false, wish) => wish,
            };
            core.remember(inner, None)?;
        }
        self.show(core.report(self.shown().fault, false));
        Ok(())
    }

    /// Ends the processes of a VM whose folder is gone, and forgets it.
    pub(super) fn retire(&self, inner: &Inner) -> Result<(), Refusal> {
        let mut core = locked(&self.core);
        self.end_processes(inner, &mut core)?;
        if core.twin.is_none() {
            inner.ledger.set(core.id, None)?;
        }
        tracing::info!(vm = %core.id, folder = %core.folder.display(), "VM is gone");
        Ok(())
    }

    fn end_processes(&self, inner: &Inner, core: &mut Core) -> Result<(), Refusal> {
        if let Some(frozen) = inner.freezes.of(self) {
            frozen.end(&*inner.options.clock);
        }
        if let Some(group) = &mut core.group {
            group.end(&*inner.options.clock, END_GRACE)?;
            core.group = None;
            core.renumber(inner);
        }
        Ok(())
    }

    fn launch(&self, inner: &Inner, core: &mut Core) -> Result<(), Refusal> {
        let before = core.wish;
        core.renumber(inner);
        // Before anything can write: whoever has read the disks learns that they may change.
        self.show(core.report(None, false));
        let token = format!("{}-{}", core.id, core.run);
        core.wish = Wish::Running;
        core.remember(inner, Some(token.clone())).inspect_err(|_| core.wish = before)?;
        let job = Job {
            folder: core.folder.clone(),
            command: core.file.command.clone(),
            images: core.file.disks.iter().map(|disk| disk.path.clone()).collect(),
            environment: environment(&core.file),
        };
        match inner.options.launcher.start(&job, &token) {
            Ok(group) => {
                tracing::info!(vm = %core.id, session = group.session.pid, "VM started");
                core.group = Some(group);
                // The mark alone finds its processes again; the session only does so faster.
                if let Err(refusal) = core.remember(inner, Some(token)) {
                    tracing::warn!(vm = %core.id, err = %refusal, "the ledger of VMs is behind");
                }
                Ok(())
            }
            Err(refusal) => {
                core.wish = before;
                core.remember(inner, None)?;
                Err(refusal)
            }
        }
    }

    pub(super) fn show(&self, report: VmReport) {
        *locked(&self.shown) = report;
    }

    /// Says that a look at this VM has been waiting.
    fn note_wait(&self, now: Time) {
        let waiting = locked(&self.looked).map(|since| now.since(since)).filter(|age| *age > LOOK_SLOW);
        if let Some(age) = waiting {
            let mut shown = locked(&self.shown);
            let message = format!("VM {}: its images have not answered for {} s", shown.vm.name, age.as_secs());
            let fault =
                Refusal::new(Class::Failed, "image_unusable", message).field("disk.path").remedy("look at its disk");
            shown.fault.get_or_insert(fault);
        }
    }
}

/// Tells a command that it runs for a failover, so that it connects no adapter in a test.
const RUN_KIND: &str = "LANDFALL_FAILOVER";

/// Tells a command where the seed image of its guest is, which it attaches as a disk of its own, read-only.
const SEED: &str = "LANDFALL_SEED";

fn environment(file: &VmFile) -> Vec<(String, String)> {
    let kind = match file.role {
        VmRole::Test => Some("test"),
        VmRole::FailedOver => Some("real"),
        VmRole::Primary | VmRole::Replica => None,
    };
    let kind = kind.map(|kind| (RUN_KIND.to_owned(), kind.to_owned()));
    let seed = file.seed.as_ref().map(|seed| (SEED.to_owned(), seed.to_string_lossy().into_owned()));
    kind.into_iter().chain(seed).collect()
}
