//! The service over real folders and real processes.

mod folders;
mod freezing;
mod replicas;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use landfall_proto::id::{UnixMillis, VmId};
use landfall_proto::seam::{Clock, Time};
use uuid::Uuid;

use super::*;
use crate::guest::{Guest, Region, check};
use crate::vm_service::VmState;

/// How long a condition may take on a busy machine before a test fails.
const DEADLINE: Duration = Duration::from_secs(30);
/// What the test guest uses of each disk.
const REGION: Region = Region { offset: 0, length: 64 << 10 };
const DISK: u64 = 128 << 10;

/// The machine's clocks.
#[derive(Debug)]
pub(in crate::drive) struct TestClock(Instant);

impl TestClock {
    pub(in crate::drive) fn shared() -> Arc<dyn Clock> {
        Arc::new(Self(Instant::now()))
    }
}

impl Clock for TestClock {
    fn now(&self) -> Time {
        Time(self.0.elapsed())
    }

    fn wall(&self) -> UnixMillis {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        UnixMillis(since.as_millis() as u64)
    }
}

/// Options of a service for tests.
pub(in crate::drive) fn options(node: &str, path: &Path) -> Options {
    Options {
        node: node.parse().unwrap(),
        path: path.to_owned(),
        storage: Vec::new(),
        scan_every: Duration::from_millis(50),
        clock: TestClock::shared(),
        reflink: Arc::new(Ficlone),
        launcher: launch::tests::launcher(),
    }
}

pub(in crate::drive) fn vm_id(number: u128) -> VmId {
    VmId(Uuid::from_u128(number))
}

/// A command line that runs a test of this binary with a variable set.
pub(in crate::drive) fn rerun(test: &str, variable: &str, value: &str) -> Vec<String> {
    let exe = std::env::current_exe().unwrap();
    let script = format!("{variable}='{value}' exec '{}' --exact {test} --nocapture", exe.display());
    vec!["sh".to_owned(), "-c".to_owned(), script]
}

const GUEST_VARIABLE: &str = "LANDFALL_TEST_GUEST";

/// Runs as a VM where it is asked to; passes otherwise.
#[test]
fn guest_process() {
    if std::env::var_os(GUEST_VARIABLE).is_some() {
        let disks: [PathBuf; 2] = ["a.raw".into(), "b.raw".into()];
        let mut guest = Guest::open(&disks, REGION, false).unwrap();
        // Its test may have failed and left it behind: without its disks it ends.
        while Path::new("a.raw").exists() {
            let number = guest.step().unwrap();
            if number.is_multiple_of(64) {
                guest.sync().unwrap();
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        std::process::exit(0);
    }
}

/// The command of the test guest.
pub(in crate::drive) fn guest_command() -> Vec<String> {
    rerun("drive::directory::tests::guest_process", GUEST_VARIABLE, "1")
}

/// Writes a VM with two disks into `folder`.
pub(in crate::drive) fn write_vm(folder: &Path, number: u128, command: &[String]) {
    fs::create_dir_all(folder).unwrap();
    for disk in ["a.raw", "b.raw"] {
        File::create(folder.join(disk)).unwrap().set_len(DISK).unwrap();
    }
    fs::write(folder.join("vm.toml.new"), vm_toml(number, command)).unwrap();
    fs::rename(folder.join("vm.toml.new"), folder.join("vm.toml")).unwrap();
}

pub(in crate::drive) fn vm_toml(number: u128, command: &[String]) -> String {
    let command = if command.is_empty() { String::new() } else { format!("command = {command:?}\n") };
    format!(
        "uuid = \"{}\"\nname = \"vm{number}\"\n{command}\
         [[disk]]\ntarget = \"vda\"\npath = \"a.raw\"\n[[disk]]\ntarget = \"vdb\"\npath = \"b.raw\"\n\
         [[adapter]]\nname = \"eth0\"\nkind = \"synthetic\"\nmac = \"52:54:00:aa:bb:01\"\n",
        vm_id(number)
    )
}

/// How far the guest in `folder` is; its disks are read while it runs, so only progress can be told.
pub(in crate::drive) fn content(folder: &Path) -> Vec<Vec<u8>> {
    ["a.raw", "b.raw"].iter().map(|disk| fs::read(folder.join(disk)).unwrap()).collect()
}

/// The instant that these images hold.
fn instant_of(images: &[PathBuf]) -> Result<u64, Refusal> {
    let files: Vec<File> = images.iter().map(|path| File::open(path).unwrap()).collect();
    check(&files, REGION)
}

/// Waits until `condition` gives something.
pub(in crate::drive) async fn until<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < deadline, "{what} did not happen in time");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The report of one VM, once it satisfies `wanted`.
pub(in crate::drive) async fn report(
    service: &dyn VmService,
    number: u128,
    what: &str,
    wanted: impl Fn(&VmReport) -> bool,
) -> VmReport {
    until(what, async || {
        let list = service.list().await.ok()?;
        list.into_iter().find(|report| report.vm.id == vm_id(number) && wanted(report))
    })
    .await
}

pub(in crate::drive) async fn running(service: &dyn VmService, number: u128) -> VmReport {
    report(service, number, "the VM runs", |report| report.state == VmState::Running).await
}

/// Waits until the guest has written something new.
pub(in crate::drive) async fn progress(folder: &Path) {
    let before = content(folder);
    until("the guest writes", async || (content(folder) != before).then_some(())).await;
}

/// The processes that carry `text` in their command line and are alive.
pub(in crate::drive) fn alive_in(folder: &Path) -> Vec<i32> {
    let processes = process::Processes::read().unwrap();
    let here = |pid: i32| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == folder);
    processes.iter().filter(|process| process.alive && here(process.pid)).map(|process| process.pid).collect()
}
