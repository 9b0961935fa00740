//! Instants: that they stand, that they end, and what is refused.

use std::io::{self, Write};
use std::process::{Command, Stdio};

use landfall_proto::message::control::Consistency;

use super::*;
use crate::vm_service::FreezeMethod;

const LONG: Duration = Duration::from_secs(600);

async fn service_with_guest(path: &Path, options: Options) -> (Directory, PathBuf) {
    let folder = path.join("one");
    write_vm(&folder, 1, &guest_command());
    let service = Directory::open(options).await.unwrap();
    running(&service, 1).await;
    progress(&folder).await;
    (service, folder)
}

fn paths(frozen: &Frozen) -> Vec<PathBuf> {
    frozen.images.iter().map(|image| image.path.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_vm_writes_no_byte_until_it_is_thawed() {
    let path = tempfile::tempdir().unwrap();
    let (service, folder) = service_with_guest(path.path(), options("p1", path.path())).await;
    for _ in 0..5 {
        let frozen = service.freeze(vm_id(1), LONG).await.unwrap();
        assert_eq!((frozen.method, frozen.consistency), (FreezeMethod::Stopped, Consistency::Crash));
        let before = content(&folder);
        let first = instant_of(&paths(&frozen)).unwrap();
        for _ in 0..20 {
            assert!(content(&folder) == before, "a byte changed while frozen");
        }
        assert_eq!(instant_of(&paths(&frozen)).unwrap(), first);
        assert_eq!(service.freeze(vm_id(1), LONG).await.unwrap_err().code, "vm_frozen");
        let thawed = service.thaw(frozen.freeze).await.unwrap();
        assert!(thawed.held && thawed.stood_still_micros > 0, "{thawed:?}");
        assert!(!service.thaw(frozen.freeze).await.unwrap().held, "a second thaw proves nothing");
        progress(&folder).await;
    }
    service.stop(vm_id(1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_freeze_that_nobody_thaws_ends_by_itself_and_has_not_held() {
    let path = tempfile::tempdir().unwrap();
    let (service, folder) = service_with_guest(path.path(), options("p1", path.path())).await;
    let frozen = service.freeze(vm_id(1), Duration::from_millis(300)).await.unwrap();
    progress(&folder).await;
    let thawed = service.thaw(frozen.freeze).await.unwrap();
    assert!(!thawed.held && thawed.stood_still_micros >= 100_000, "{thawed:?}");
    // And the next one is not in its way.
    let frozen = service.freeze(vm_id(1), LONG).await.unwrap();
    assert!(service.thaw(frozen.freeze).await.unwrap().held);
    service.stop(vm_id(1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_resumed_behind_the_services_back_has_not_held() {
    let path = tempfile::tempdir().unwrap();
    let (service, folder) = service_with_guest(path.path(), options("p1", path.path())).await;
    let frozen = service.freeze(vm_id(1), LONG).await.unwrap();
    for pid in alive_in(&folder) {
        rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::CONT)
            .unwrap();
    }
    progress(&folder).await;
    assert!(!service.thaw(frozen.freeze).await.unwrap().held);
    let frozen = service.freeze(vm_id(1), LONG).await.unwrap();
    let mut file = File::options().append(true).open(folder.join("a.raw")).unwrap();
    file.write_all(&[1; 512]).unwrap();
    assert!(!service.thaw(frozen.freeze).await.unwrap().held, "somebody else wrote");
    let frozen = service.freeze(vm_id(1), LONG).await.unwrap();
    service.stop(vm_id(1)).await.unwrap();
    assert!(!service.thaw(frozen.freeze).await.unwrap().held, "it was stopped");
}

/// Signals the VM's processes as an operator would, and waits until `still` is so.
async fn signal_all(folder: &Path, signal: rustix::process::Signal, still: bool) {
    for pid in alive_in(folder) {
        rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal).unwrap();
    }
    let all = |pids: Vec<i32>| pids.into_iter().all(|pid| process::Process::is_still(pid) == still);
    until("the signal has come", async || all(alive_in(folder)).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_somebody_else_stopped_is_left_standing() {
    let path = tempfile::tempdir().unwrap();
    let (service, folder) = service_with_guest(path.path(), options("p1", path.path())).await;
    signal_all(&folder, rustix::process::Signal::STOP, true).await;
    let before = content(&folder);
    for _ in 0..2 {
        let frozen = service.freeze(vm_id(1), LONG).await.unwrap();
        assert_eq!((frozen.method, frozen.consistency), (FreezeMethod::Stopped, Consistency::Crash));
        let thawed = service.thaw(frozen.freeze).await.unwrap();
        assert_eq!(thawed, Thawed { held: true, stood_still_micros: 0 });
        assert!(alive_in(&folder).into_iter().all(process::Process::is_still), "the thaw let it go on");
    }
    // A freeze that ends by itself does not wake it either, and one that it was woken in has not held.
    let frozen = service.freeze(vm_id(1), Duration::from_millis(50)).await.unwrap();
    until("the freeze is over", async || service.freeze(vm_id(1), LONG).await.ok()).await;
    assert!(!service.thaw(frozen.freeze).await.unwrap().held);
    // Nor does another life of the service; one that was stopped for a freeze goes on then, which the mark says.
    drop(service);
    let reopen =
        async || until("the path is free", async || Directory::open(options("p1", path.path())).await.ok()).await;
    let service = reopen().await;
    running(&service, 1).await;
    assert!(alive_in(&folder).into_iter().all(process::Process::is_still), "the next life let it go on");
    assert!(content(&folder) == before, "a byte changed meanwhile");
    drop(service);
    File::create(path.path().join(format!(".landfall/frozen-{}", vm_id(1)))).unwrap();
    let service = reopen().await;
    progress(&folder).await;
    service.stop(vm_id(1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_service_leaves_no_vm_standing() {
    let path = tempfile::tempdir().unwrap();
    let (service, folder) = service_with_guest(path.path(), options("p1", path.path())).await;
    service.freeze(vm_id(1), LONG).await.unwrap();
    let mark = path.path().join(format!(".landfall/frozen-{}", vm_id(1)));
    assert!(mark.exists(), "a service that is killed now would leave it standing");
    drop(service);
    progress(&folder).await;
    assert!(!mark.exists());
    let again = until("the path is free", async || Directory::open(options("p1", path.path())).await.ok()).await;
    running(&again, 1).await;
    again.stop(vm_id(1)).await.unwrap();
    assert_eq!(alive_in(&folder), Vec::<i32>::new());
}

/// Stands in for FICLONE, which the file system of a test machine may not have: the VM stands still, so a copy is one.
struct Copying;

impl Reflink for Copying {
    fn reflink(&self, source: &File, target: &File) -> io::Result<()> {
        let (mut source, mut target) = (source, target);
        io::copy(&mut source, &mut target).map(drop)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_copies_by_reference_the_vm_goes_on_at_once() {
    let path = tempfile::tempdir().unwrap();
    let with_copies = Options { reflink: Arc::new(Copying), ..options("p1", path.path()) };
    let (service, folder) = service_with_guest(path.path(), with_copies).await;
    for hold in [LONG, LONG, Duration::from_millis(300)] {
        let frozen = service.freeze(vm_id(1), hold).await.unwrap();
        assert_eq!(frozen.method, FreezeMethod::Cloned);
        progress(&folder).await;
        let copies = paths(&frozen);
        if hold == LONG {
            let number = instant_of(&copies).unwrap();
            progress(&folder).await;
            assert_eq!(instant_of(&copies).unwrap(), number);
            assert!(service.thaw(frozen.freeze).await.unwrap().held);
        } else {
            until("the copies are removed", async || copies.iter().all(|copy| !copy.exists()).then_some(())).await;
            assert!(!service.thaw(frozen.freeze).await.unwrap().held);
        }
        assert!(copies.iter().all(|copy| !copy.exists()), "copies stay behind");
    }
    service.stop(vm_id(1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_is_off_is_kept_off_and_its_run_tells_of_every_change() {
    let path = tempfile::tempdir().unwrap();
    let (service, folder) = service_with_guest(path.path(), options("p1", path.path())).await;
    let ran = running(&service, 1).await.run;
    service.stop(vm_id(1)).await.unwrap();
    let off = report(&service, 1, "the VM is off", |report| report.state == VmState::Stopped).await;
    assert_ne!(off.run, ran);
    let off = report(&service, 1, "its last writes were seen", |report| report.images.len() == 2).await;
    let frozen = service.freeze(vm_id(1), LONG).await.unwrap();
    assert_eq!((frozen.method, frozen.consistency), (FreezeMethod::Off, Consistency::Off));
    assert_eq!(service.start(vm_id(1)).await.unwrap_err().code, "vm_frozen");
    instant_of(&paths(&frozen)).unwrap();
    assert!(service.thaw(frozen.freeze).await.unwrap().held);
    let still = report(&service, 1, "it is listed", |_| true).await;
    let frozen = service.freeze(vm_id(1), LONG).await.unwrap();
    assert_eq!(frozen.run, still.run);
    let mut file = File::options().append(true).open(folder.join("b.raw")).unwrap();
    file.write_all(&[0; 512]).unwrap();
    assert!(!service.thaw(frozen.freeze).await.unwrap().held, "somebody wrote meanwhile");
    report(&service, 1, "the run changes", |report| report.run != off.run && report.run != still.run).await;
    service.start(vm_id(1)).await.unwrap();
    assert_ne!(running(&service, 1).await.run, still.run);
    service.stop(vm_id(1)).await.unwrap();
}

/// A process that keeps `script`'s descriptors until it is dropped.
struct Stranger(std::process::Child);

impl Stranger {
    fn new(script: &str) -> Self {
        let script = format!("{script}; echo; read line");
        let mut command = Command::new("sh");
        let mut child = command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut ready = [0];
        io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
        Self(child)
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_somebody_else_writes_is_read_only_when_they_have_stopped() {
    let path = tempfile::tempdir().unwrap();
    let folder = path.path().join("one");
    write_vm(&folder, 1, &[]);
    let service = Directory::open(options("p1", path.path())).await.unwrap();
    let idle = report(&service, 1, "it is listed", |report| report.images.len() == 2).await;
    assert!(idle.stopped_only && idle.state == VmState::Stopped);
    let writer = Stranger::new(&format!("exec 3>>'{}'", folder.join("b.raw").display()));
    let refusal = service.freeze(vm_id(1), LONG).await.unwrap_err();
    assert_eq!(refusal.code, "stopped_only");
    assert!(refusal.message.contains("b.raw") && refusal.message.contains("(sh)"), "{refusal}");
    let busy = report(&service, 1, "the writer is seen", |report| report.state == VmState::Running).await;
    assert!(busy.stopped_only && busy.run != idle.run);
    drop(writer);
    report(&service, 1, "the writer is gone", |report| report.state == VmState::Stopped).await;
    let frozen = service.freeze(vm_id(1), LONG).await.unwrap();
    assert!(service.thaw(frozen.freeze).await.unwrap().held);
    assert_eq!(service.start(vm_id(1)).await.unwrap_err().code, "no_command");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_somebody_else_has_locked_is_a_fault_that_names_it() {
    let path = tempfile::tempdir().unwrap();
    let folder = path.path().join("one");
    write_vm(&folder, 1, &guest_command());
    let holder = Stranger::new(&format!("exec 3<'{}'; flock -x 3", folder.join("a.raw").display()));
    let service = Directory::open(options("p1", path.path())).await.unwrap();
    let report_locked = report(&service, 1, "the lock is seen", |report| report.fault.is_some()).await;
    let fault = report_locked.fault.unwrap();
    assert_eq!(fault.code, "image_locked");
    assert!(fault.message.contains("a.raw") && fault.message.contains("process"), "{fault}");
    assert_eq!(service.freeze(vm_id(1), LONG).await.unwrap_err().code, "image_locked");
    assert_eq!(service.start(vm_id(1)).await.unwrap_err().code, "image_locked");
    drop(holder);
    // Whoever waits for the lock starts by itself.
    running(&service, 1).await;
    service.stop(vm_id(1)).await.unwrap();
}

#[tokio::test]
async fn a_hold_without_bounds_is_refused() {
    let path = tempfile::tempdir().unwrap();
    write_vm(&path.path().join("one"), 1, &[]);
    let service = Directory::open(options("p1", path.path())).await.unwrap();
    for hold in [Duration::ZERO, HOLD_MAX + Duration::from_millis(1)] {
        assert_eq!(service.freeze(vm_id(1), hold).await.unwrap_err().field.unwrap(), "hold_ms");
    }
    assert_eq!(service.freeze(vm_id(9), LONG).await.unwrap_err().code, "not_found");
}
