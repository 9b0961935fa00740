//! Instants of VMs, and how they end: by a thaw, or by themselves.
//!
//! A freeze is entered here before the VM is stopped, with what is needed to let it go on. So its deadline works
//! whatever the rest is waiting for, and a dead agent or a hung disk never stops a VM for good. Where this process dies,
//! the next life of the service lets every VM go on that was stopped for a freeze: a mark beside the ledger says so, made
//! before the VM is stopped. It is not synced: after a power cut nothing stands still. A VM that somebody else has
//! stopped has none, and is left as it is.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use landfall_proto::id::VmId;
use landfall_proto::seam::{Clock, Time};
use landfall_proto::{Class, Refusal};
use tokio::task::AbortHandle;

use super::disk_image::Print;
use super::group::Session;
use super::locked;
use super::owner::PRIVATE;
use super::vm::Vm;
use crate::vm_service::{FreezeId, FreezeMethod, Thawed, VmState};

/// The most freezes at a time: one a VM, and one backup window has fewer.
const FREEZES_MAX: usize = 256;

/// One freeze.
pub(super) struct Freeze {
    /// Its number.
    pub id: FreezeId,
    /// Whose it is.
    pub vm: Arc<Vm>,
    /// When it ends by itself.
    pub until: Time,
    mark: Mark,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    ended: bool,
    timer: Option<AbortHandle>,
    session: Option<Session>,
    since: Option<Time>,
    stood: Duration,
    instant: Option<Instant>,
}

/// What the instant rests on.
pub(super) struct Instant {
    /// How it is held.
    pub method: FreezeMethod,
    /// The VM's run.
    pub run: u64,
    /// The images as they were.
    pub prints: Vec<(PathBuf, Print)>,
    /// Files to be removed with it.
    pub clones: Clones,
    /// Locks to be held with it.
    pub _locks: Vec<File>,
}

/// Says that a VM may stand still for a freeze.
#[derive(Debug)]
pub(super) struct Mark(PathBuf);

impl Mark {
    /// The mark of `vm`, one of those of the service at `path`.
    pub(super) fn of(path: &Path, vm: VmId) -> Self {
        Self(path.join(PRIVATE).join(format!("frozen-{vm}")))
    }

    fn set(&self) -> Result<(), Refusal> {
        File::create(&self.0).map(drop).map_err(|error| {
            let message = format!("the VM is not stopped, since {} cannot be made: {error}", self.0.display());
            let remedy = "make room on the disk of the VM path, and the folder writable for the VM service";
            Refusal::new(Class::Failed, "not_frozen", message).field("vm_service.path").remedy(remedy)
        })
    }

    /// Takes it away; whether it was there.
    pub(super) fn clear(&self) -> bool {
        match fs::remove_file(&self.0) {
            Ok(()) => true,
            Err(error) => {
                if error.kind() != ErrorKind::NotFound {
                    tracing::warn!(file = %self.0.display(), %error, "the mark of a finished freeze stays behind");
                }
                false
            }
        }
    }
}

/// Copies by reference that go with their freeze.
#[derive(Debug, Default)]
pub(super) struct Clones(pub Vec<PathBuf>);

impl Drop for Clones {
    fn drop(&mut self) {
        for path in &self.0 {
            if let Err(error) = fs::remove_file(path) {
                tracing::warn!(file = %path.display(), %error, "a copy of a finished freeze stays behind");
            }
        }
    }
}

impl Freeze {
    /// Notes that the VM is about to be stopped; refused where that cannot be told to the next life of the service.
    pub(super) fn stopping(&self, session: Session, now: Time) -> Result<(), Refusal> {
        let mut state = locked(&self.state);
        self.mark.set()?;
        state.session = Some(session);
        state.since = Some(now);
        Ok(())
    }

    /// Notes that the VM stood still before: somebody else stopped it, and the thaw does not let it go on.
    pub(super) fn found_still(&self, session: Session) {
        locked(&self.state).session = Some(session);
    }

    /// Lets the VM go on, once, where this freeze has stopped it.
    pub(super) fn go_on(&self, clock: &dyn Clock) {
        let mut state = locked(&self.state);
        if let Some(since) = state.since.take() {
            if let Some(session) = state.session {
                session.go_on();
            }
            self.mark.clear();
            state.stood = clock.now().since(since);
        }
    }

    /// Keeps what the instant rests on; refused where the time was up meanwhile.
    pub(super) fn keep(&self, instant: Instant) -> Result<(), Refusal> {
        let mut state = locked(&self.state);
        if state.ended {
            return Err(Refusal::new(
                Class::Failed,
                "freeze_expired",
                "the time to hold was up before the instant was ready",
            )
            .field("hold_ms")
            .remedy("ask for a longer hold; the VM goes on"));
        }
        state.instant = Some(instant);
        Ok(())
    }

    /// Ends it without a thaw: the time is up, or the VM was changed.
    pub(super) fn end(&self, clock: &dyn Clock) {
        self.go_on(clock);
        let mut state = locked(&self.state);
        state.ended = true;
        state.instant = None;
        if let Some(timer) = state.timer.take() {
            timer.abort();
        }
    }

    /// Whether it still stands.
    pub(super) fn is_open(&self) -> bool {
        !locked(&self.state).ended
    }

    /// Remembers the task that ends it in time.
    pub(super) fn timed_by(&self, timer: AbortHandle) {
        let mut state = locked(&self.state);
        if state.ended {
            timer.abort();
        }
        state.timer = Some(timer);
    }

    /// Whether what was read up to now was one instant.
    fn held(&self, now: Time) -> bool {
        let state = locked(&self.state);
        let Some(instant) = state.instant.as_ref().filter(|_| !state.ended && now < self.until) else { return false };
        let unchanged = instant.prints.iter().all(|(path, print)| Print::take(path) == Some(*print));
        match instant.method {
            FreezeMethod::Cloned => instant.clones.0.iter().all(|path| path.exists()),
            FreezeMethod::Stopped => unchanged && state.session.is_some_and(|session| session.is_still()),
            FreezeMethod::Off => {
                let shown = self.vm.shown();
                unchanged && shown.run == instant.run && shown.state == VmState::Stopped
            }
        }
    }
}

/// All freezes, ended ones that nobody has thawed yet included.
#[derive(Default)]
pub(super) struct Freezes(Mutex<BTreeMap<FreezeId, Arc<Freeze>>>);

impl Freezes {
    /// Enters a freeze of `vm`; refused where one stands already, or too many do.
    pub(super) fn open(&self, id: FreezeId, vm: &Arc<Vm>, until: Time, mark: Mark) -> Result<Arc<Freeze>, Refusal> {
        let mut freezes = locked(&self.0);
        if freezes.values().any(|freeze| freeze.is_open() && Arc::ptr_eq(&freeze.vm, vm)) {
            return Err(frozen(vm));
        }
        while freezes.len() >= FREEZES_MAX {
            let Some(ended) = freezes.iter().find(|(_, freeze)| !freeze.is_open()).map(|(id, _)| *id) else {
                return Err(Refusal::new(Class::Failed, "too_many_freezes", format!("{FREEZES_MAX} VMs are frozen"))
                    .remedy("thaw some, or wait for them to end by themselves"));
            };
            freezes.remove(&ended);
        }
        let freeze = Arc::new(Freeze { id, vm: vm.clone(), until, mark, state: Mutex::default() });
        freezes.insert(id, freeze.clone());
        Ok(freeze)
    }

    /// The freeze of `vm` that stands.
    pub(super) fn of(&self, vm: &Vm) -> Option<Arc<Freeze>> {
        let freezes = locked(&self.0);
        freezes.values().find(|freeze| freeze.is_open() && std::ptr::eq(&*freeze.vm, vm)).cloned()
    }

    /// Ends the freeze and tells how it was. One that is not known (any more) has not held.
    pub(super) fn thaw(&self, id: FreezeId, clock: &dyn Clock) -> Thawed {
        let Some(freeze) = locked(&self.0).remove(&id) else {
            return Thawed { held: false, stood_still_micros: 0 };
        };
        let held = freeze.held(clock.now());
        freeze.end(clock);
        let stood = locked(&freeze.state).stood.as_micros();
        Thawed { held, stood_still_micros: u64::try_from(stood).unwrap_or(u64::MAX) }
    }

    /// Drops a freeze that came to nothing.
    pub(super) fn drop_failed(&self, freeze: &Freeze, clock: &dyn Clock) {
        freeze.end(clock);
        locked(&self.0).remove(&freeze.id);
    }

    /// Lets every VM go on.
    pub(super) fn end_all(&self, clock: &dyn Clock) {
        for freeze in locked(&self.0).values() {
            freeze.end(clock);
        }
    }
}

/// The VM is frozen.
pub(super) fn frozen(vm: &Vm) -> Refusal {
    let name = vm.shown().vm.name;
    Refusal::new(Class::Failed, "vm_frozen", format!("VM {name} is frozen"))
        .field("vm")
        .remedy("wait until it is thawed; a freeze ends by itself")
}
