//! What acting on one VM needs, and what changes together.

use std::fs::File;
use std::path::PathBuf;

use landfall_proto::id::{DiskTarget, VmId, VmName};
use landfall_proto::model::{DiskSpec, Launch, LaunchImage, VmSpec};
use landfall_proto::{Class, Refusal};

use super::Inner;
use super::disk_image::{self, Print};
use super::group::{END_GRACE, Group};
use super::launch::LOGS;
use super::ledger::{Entry, Wish};
use super::process::Processes;
use super::vm_file::{DiskFile, VmFile};
use crate::vm_service::{Image, ImageFormat, NOT_MEASURED, VmReport, VmRole, VmState};

/// The longest a VM's standard output or error may grow; then it is set aside once and begins again.
const LOG_MAX: u64 = 4 << 20;
/// Added to a run's number where none can be reserved: beyond any number that is.
const UNRESERVED: u64 = 1 << 52;

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
    /// Its images as they were last seen.
    pub images: Vec<Image>,
    /// The state of every disk's file then.
    pub prints: Vec<Option<Print>>,
    /// Whether nothing had changed since the look before: nobody is still copying the folder here.
    pub steady: bool,
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
    pub(super) fn notice_end(&mut self, inner: &Inner, processes: &Processes) -> bool {
        let ended = self.group.as_mut().is_some_and(|group| group.has_ended(processes));
        if ended {
            tracing::info!(vm = %self.id, "VM has ended");
            self.group = None;
            self.wish = Wish::Ended;
            self.renumber(inner);
            self.remember_ended(inner);
        }
        ended
    }

    fn remember_ended(&self, inner: &Inner) {
        if let Err(refusal) = self.remember(inner, None) {
            tracing::warn!(vm = %self.id, err = %refusal, "the ledger of VMs is behind");
        }
    }

    /// A VM that has become a replica runs no longer.
    pub(super) fn end_replica(&mut self, inner: &Inner) {
        if self.file.role == VmRole::Replica
            && self.file_fault.is_none()
            && let Some(group) = &mut self.group
        {
            if let Err(refusal) = group.end(&*inner.options.clock, END_GRACE) {
                tracing::error!(vm = %self.id, err = %refusal, "a replica runs");
                return;
            }
            (self.group, self.wish) = (None, Wish::Ended);
            self.renumber(inner);
            self.remember_ended(inner);
        }
    }

    /// Whether there is something to be started.
    pub(super) fn may_run(&self) -> bool {
        self.group.is_none() && self.file.role == VmRole::Primary && !self.file.command.is_empty()
    }

    /// Looks at every image; the first fault.
    pub(super) fn look_at_images(&mut self, inner: &Inner) -> Option<Refusal> {
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
        self.steady = !self.take_in(inner, images, prints) && fault.is_none();
        fault
    }

    /// Takes in what a look at the images showed; whether that was news. Of a VM that is off it means another run:
    /// somebody has written.
    pub(super) fn take_in(&mut self, inner: &Inner, images: Vec<Image>, prints: Vec<Option<Print>>) -> bool {
        let is_news = prints != self.prints;
        if is_news && self.group.is_none() {
            self.renumber(inner);
        }
        (self.images, self.prints) = (images, prints);
        is_news
    }

    /// Gives the run another number.
    pub(super) fn renumber(&mut self, inner: &Inner) {
        self.run = inner.ledger.number().unwrap_or(self.run.wrapping_add(UNRESERVED));
    }

    /// Keeps what must be known after this process: the mark of the VM's processes where it has any.
    pub(super) fn remember(&self, inner: &Inner, token: Option<String>) -> Result<(), Refusal> {
        let session = self.group.as_ref().map(|group| group.session);
        inner.ledger.set(self.id, Some(Entry { folder: self.folder.clone(), wish: self.wish, token, session }))
    }

    /// Keeps what the VM prints from filling the disk. It appends, so it goes on at the new end.
    pub(super) fn bound_logs(&self) {
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

    /// What is shown: `written` where somebody else may be writing its images.
    pub(super) fn report(&self, fault: Option<Refusal>, written: bool) -> VmReport {
        let size = |target: &DiskTarget| {
            self.images.iter().find(|image| image.target == *target).map_or(0, |image| image.bytes)
        };
        let disks = self.file.disks.iter().map(|disk| DiskSpec {
            target: disk.target.clone(),
            bytes: disk.bytes.unwrap_or_else(|| size(&disk.target)),
        });
        let vm = VmSpec {
            id: self.id,
            name: self.name(),
            disks: disks.collect(),
            adapters: self.file.adapters.clone(),
            launch: self.launch(),
        };
        let runs = self.group.is_some() || self.wish == Wish::Running || written;
        let primary = self.file.role == VmRole::Primary;
        VmReport {
            vm,
            role: self.file.role,
            state: if runs { VmState::Running } else { VmState::Stopped },
            run: self.run,
            stopped_only: primary && (self.file.command.is_empty() || written),
            images: self.images.clone(),
            fault: fault.or_else(|| self.fault()).or_else(|| self.unmeasured()),
        }
    }

    /// What a failover of it would start elsewhere; nothing where it is too large to travel, or an image is not known.
    fn launch(&self) -> Launch {
        if self.file.role != VmRole::Primary || self.file.command.is_empty() {
            return Launch::default();
        }
        let image = |disk: &DiskFile| {
            let found = self.images.iter().find(|image| image.target == disk.target)?;
            let raw = found.format == ImageFormat::Raw;
            Some(LaunchImage { target: disk.target.clone(), path: disk.written.clone(), raw })
        };
        let Some(images) = self.file.disks.iter().map(image).collect::<Option<Vec<_>>>() else {
            return Launch::default();
        };
        let launch = Launch { command: self.file.command.clone(), images };
        if launch.fits() { launch } else { Launch::default() }
    }

    /// A disk whose image has not been looked at yet has no size, and cannot be replicated until it has.
    fn unmeasured(&self) -> Option<Refusal> {
        let unknown = self
            .file
            .disks
            .iter()
            .find(|disk| disk.bytes.is_none() && !self.images.iter().any(|image| image.target == disk.target))?;
        let message = format!("the image of disk '{}' has not been looked at yet", unknown.target);
        Some(Refusal::new(Class::Failed, NOT_MEASURED, message).field("disk").remedy("try again in a second"))
    }

    /// Its name; its folder's where the file gives none.
    fn name(&self) -> VmName {
        let folder = self.folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let names = [self.file.name.clone(), folder.parse().ok(), self.id.to_string().parse().ok()];
        names.into_iter().flatten().next().unwrap_or_else(|| unreachable!("a UUID is a VM name"))
    }
}
