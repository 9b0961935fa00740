//! One VM of the service: what its folder says, what its processes do, what is shown of it.
//!
//! Whoever does something to a VM holds its [`Core`]; what everybody sees is a copy apart from it ([`Vm::shown`]), so
//! that a hung disk under one VM holds up that VM alone.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, TryLockError};
use std::time::Duration;

use landfall_proto::id::{DiskTarget, VmId, VmName};
use landfall_proto::model::{DiskSpec, VmSpec};
use landfall_proto::seam::Time;
use landfall_proto::{Class, Refusal};

use super::disk_image::{self, Print};
use super::foreign::{self, FileId, Holders};
use super::group::{END_GRACE, Group};
use super::launch::{Job, LOGS};
use super::ledger::{Entry, Wish};
use super::process::Processes;
use super::vm_file::VmFile;
use super::{Inner, freeze, instant, locked};
use crate::vm_service::{Image, VmReport, VmRole, VmState};

/// The longest a VM's standard output or error may grow; then it is set aside once and begins again.
const LOG_MAX: u64 = 4 << 20;
/// How long a VM's images may keep a look at them waiting before that is a fault.
const LOOK_SLOW: Duration = Duration::from_secs(5);
/// Added to a run's number where none can be reserved: beyond any number that is.
const UNRESERVED: u64 = 1 << 52;

/// One VM.
pub(super) struct Vm {
    /// What acting on it needs.
    pub core: Mutex<Core>,
    /// Whether its folder is gone and its processes are being ended.
    pub retiring: AtomicBool,
    shown: Mutex<VmReport>,
    looked: Mutex<Option<Time>>,
}

/// The parts of a VM that change together.
pub(super) struct Core {
    /// Its identity: from its file, else remembered, else made from its folder.
    pub id: VmId,
    /// Its folder.
    pub folder: PathBuf,
    /// What the file says; the last good one where it is bad now.
    pub file: VmFile,
    /// What is wrong with the file.
    pub file_fault: Option<Refusal>,
    /// Another folder with the same identity.
    pub twin: Option<PathBuf>,
    /// Its processes.
    pub group: Option<Group>,
    /// [`VmReport::run`].
    pub run: u64,
    /// Whether it should run.
    pub wish: Wish,
    /// Whether copies by reference were found not to work.
    pub no_reflink: bool,
    images: Vec<Image>,
    prints: Vec<Option<Print>>,
    steady: bool,
}

/// What one look at the machine showed.
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
        match &group {
            Some(group) => {
                // An earlier life may have died in the middle of a freeze.
                group.session.go_on();
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
        let shown = Mutex::new(core.report(None, None));
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
        if core.file.role == VmRole::Primary {
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
        if core.wish == Wish::Start && core.may_run() && core.steady && fault.is_none() && writer.is_none() {
            fault = self.start_found(inner, &mut core);
        }
        core.bound_logs();
        self.show(core.report(fault, writer));
        *locked(&self.looked) = None;
    }

    /// Reads the table of processes, and shows at once where the VM has ended.
    pub(super) fn notice(&self, inner: &Inner, core: &mut Core) -> Result<Processes, Refusal> {
        let processes = Processes::read().map_err(|error| super::unreadable("/proc", &error))?;
        if core.notice_end(inner, &processes) {
            self.show(core.report(self.shown().fault, None));
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
        self.show(core.report(None, None));
        Ok(())
    }

    /// Stops the VM for good: it is not started again because it is found.
    pub(super) fn stop(&self, inner: &Inner) -> Result<(), Refusal> {
        let mut core = locked(&self.core);
        self.end_processes(inner, &mut core)?;
        if core.file.role == VmRole::Primary {
            core.wish = Wish::Stopped;
            core.remember(inner, None)?;
        }
        self.show(core.report(self.shown().fault, None));
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
        self.show(core.report(None, None));
        let token = format!("{}-{}", core.id, core.run);
        core.wish = Wish::Running;
        core.remember(inner, Some(token.clone())).inspect_err(|_| core.wish = before)?;
        let job = Job {
            folder: core.folder.clone(),
            command: core.file.command.clone(),
            images: core.file.disks.iter().map(|disk| disk.path.clone()).collect(),
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

    fn show(&self, report: VmReport) {
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

impl Core {
    /// Why this VM cannot be used whatever its images are.
    pub(super) fn fault(&self) -> Option<Refusal> {
        if let Some(twin) = &self.twin {
            let message = format!("VM {} is in {} and in {}", self.id, self.folder.display(), twin.display());
            let remedy = "give one of them a uuid of its own, or remove it";
            return Some(Refusal::new(Class::Refused, "duplicate_vm", message).field("uuid").remedy(remedy));
        }
        self.file_fault.clone()
    }

    /// Notices that its processes have ended; whether they have.
    fn notice_end(&mut self, inner: &Inner, processes: &Processes) -> bool {
        let ended = self.group.as_mut().is_some_and(|group| !group.is_alive(processes));
        if ended {
            tracing::info!(vm = %self.id, "VM has ended");
            self.group = None;
            self.wish = Wish::Ended;
            self.renumber(inner);
            if let Err(refusal) = self.remember(inner, None) {
                tracing::warn!(vm = %self.id, err = %refusal, "the ledger of VMs is behind");
            }
        }
        ended
    }

    /// A VM that has become a replica runs no longer.
    fn end_replica(&mut self, inner: &Inner) {
        if self.file.role == VmRole::Replica
            && self.file_fault.is_none()
            && let Some(group) = &mut self.group
        {
            match group.end(&*inner.options.clock, END_GRACE) {
                Ok(()) => self.group = None,
                Err(refusal) => tracing::error!(vm = %self.id, err = %refusal, "a replica runs"),
            }
            self.renumber(inner);
        }
    }

    fn may_run(&self) -> bool {
        self.group.is_none() && self.file.role == VmRole::Primary && !self.file.command.is_empty()
    }

    /// Looks at every image; the first fault.
    fn look_at_images(&mut self, inner: &Inner) -> Option<Refusal> {
        if self.file.role == VmRole::Replica {
            (self.images, self.prints) = (Vec::new(), Vec::new());
            return None;
        }
        let (mut fault, mut images, mut prints) = (None, Vec::new(), Vec::new());
        for disk in &self.file.disks {
            match disk_image::inspect(&disk.target, &disk.path) {
                Ok((image, print)) => {
                    images.push(image);
                    prints.push(Some(print));
                }
                Err(refusal) => {
                    prints.push(None);
                    fault.get_or_insert(refusal);
                }
            }
        }
        self.steady = prints == self.prints && fault.is_none();
        if prints != self.prints && self.group.is_none() {
            self.renumber(inner);
        }
        (self.images, self.prints) = (images, prints);
        fault
    }

    /// Gives the run another number.
    fn renumber(&mut self, inner: &Inner) {
        self.run = inner.ledger.number().unwrap_or(self.run.wrapping_add(UNRESERVED));
    }

    fn remember(&self, inner: &Inner, token: Option<String>) -> Result<(), Refusal> {
        let session = self.group.as_ref().map(|group| group.session);
        inner.ledger.set(self.id, Some(Entry { folder: self.folder.clone(), wish: self.wish, token, session }))
    }

    /// Keeps what the VM prints from filling the disk. It appends, so it goes on at the new end.
    fn bound_logs(&self) {
        for name in LOGS {
            let path = self.folder.join(name);
            if path.metadata().is_ok_and(|metadata| metadata.len() > LOG_MAX) {
                let aside = std::fs::copy(&path, path.with_extension("log.1"));
                let cut = aside.and_then(|_| File::options().write(true).open(&path)?.set_len(0));
                if let Err(error) = cut {
                    tracing::warn!(file = %path.display(), %error, "a VM's output cannot be set aside");
                }
            }
        }
    }

    fn report(&self, fault: Option<Refusal>, writer: Option<Refusal>) -> VmReport {
        let size = |target: &DiskTarget| {
            self.images.iter().find(|image| image.target == *target).map_or(0, |image| image.bytes)
        };
        let disks = self.file.disks.iter().map(|disk| DiskSpec {
            target: disk.target.clone(),
            bytes: disk.bytes.unwrap_or_else(|| size(&disk.target)),
        });
        let vm =
            VmSpec { id: self.id, name: self.name(), disks: disks.collect(), adapters: self.file.adapters.clone() };
        let runs = self.group.is_some() || self.wish == Wish::Running || writer.is_some();
        let primary = self.file.role == VmRole::Primary;
        VmReport {
            vm,
            role: self.file.role,
            state: if runs { VmState::Running } else { VmState::Stopped },
            run: self.run,
            stopped_only: primary && (self.file.command.is_empty() || writer.is_some()),
            images: self.images.clone(),
            fault: fault.or_else(|| self.fault()),
        }
    }

    /// Its name; its folder's where the file gives none.
    fn name(&self) -> VmName {
        let folder = self.folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let names = [self.file.name.clone(), folder.parse().ok(), self.id.to_string().parse().ok()];
        names.into_iter().flatten().next().unwrap_or_else(|| unreachable!("a UUID is a VM name"))
    }
}
