//! Replicas, settings and storage: what the agent asks of the service.

use std::collections::BTreeMap;

use landfall_proto::id::{Epoch, Revision};
use landfall_proto::model::{Adapter, AdapterKind, DiskSpec, PromotionId, VmSpec};

use super::*;
use crate::vm_service::{Run, RunImage};

fn registration(number: u128, epoch: u64) -> Registration {
    let vm = VmSpec {
        id: vm_id(number),
        name: format!("replica {number}").parse().unwrap(),
        disks: vec![DiskSpec { target: "vda".parse().unwrap(), bytes: 1 << 30 }],
        adapters: vec![Adapter {
            name: "eth0".to_owned(),
            kind: AdapterKind::Legacy,
            mac: "52:54:00:00:00:01".to_owned(),
            network: Default::default(),
        }],
        launch: Default::default(),
    };
    let primary = "p-broker-cap.contoso.com".parse().unwrap();
    Registration { vm, primary, epoch: Epoch::from_number(epoch), folder: "/srv/replicas/x".into(), run: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_listed_with_its_adapters_and_is_never_started() {
    let path = tempfile::tempdir().unwrap();
    let service = Directory::open(options("r1", path.path())).await.unwrap();
    let wanted = registration(7, 5);
    service.register(&wanted).await.unwrap();
    service.register(&registration(7, 6)).await.unwrap();
    let list = service.list().await.unwrap();
    assert_eq!(list.len(), 1);
    assert_eq!((list[0].role, list[0].state, &list[0].fault), (VmRole::Replica, VmState::Stopped, &None));
    assert_eq!(list[0].vm, wanted.vm);
    let file = path.path().join(vm_id(7).to_string()).join("vm.toml");
    assert!(fs::read_to_string(&file).unwrap().contains("epoch = 6"));
    assert_eq!(service.start(vm_id(7)).await.unwrap_err().code, "vm_is_replica");
    assert_eq!(service.freeze(vm_id(7), Duration::from_secs(1)).await.unwrap_err().code, "vm_is_replica");
    // Not even where somebody adds a command by hand.
    let forced =
        fs::read_to_string(&file).unwrap().replace("epoch", "command = [\"sh\", \"-c\", \"touch started\"]\nepoch");
    fs::write(&file, forced).unwrap();
    report(&service, 7, "the command is refused", |report| report.fault.is_some()).await;
    for _ in 0..5 {
        service.inner.scan().await.unwrap();
    }
    assert!(!file.with_file_name("started").exists());
    service.register(&wanted).await.unwrap();
    drop(service);
    let service = until("the path is free", async || Directory::open(options("r1", path.path())).await.ok()).await;
    assert_eq!(service.list().await.unwrap()[0].role, VmRole::Replica);
    service.unregister(vm_id(7)).await.unwrap();
    service.unregister(vm_id(7)).await.unwrap();
    assert!(service.list().await.unwrap().is_empty() && !file.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_is_never_turned_into_a_replica_by_a_registration() {
    let path = tempfile::tempdir().unwrap();
    write_vm(&path.path().join("mine"), 7, &[]);
    let service = Directory::open(options("p1", path.path())).await.unwrap();
    assert_eq!(service.register(&registration(7, 5)).await.unwrap_err().code, "vm_exists");
    service.unregister(vm_id(7)).await.unwrap();
    assert_eq!(service.list().await.unwrap()[0].role, VmRole::Primary);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_becomes_a_replica_stops() {
    let path = tempfile::tempdir().unwrap();
    let folder = path.path().join("one");
    write_vm(&folder, 1, &guest_command());
    let service = Directory::open(options("p1", path.path())).await.unwrap();
    running(&service, 1).await;
    let wanted = registration(1, 9);
    fs::write(folder.join("vm.toml"), vm_file::replica(&wanted).unwrap()).unwrap();
    let replica = |report: &VmReport| report.role == VmRole::Replica && report.state == VmState::Stopped;
    report(&service, 1, "it is a replica and off", replica).await;
    until("it has stopped", async || alive_in(&folder).is_empty().then_some(())).await;
}

#[tokio::test]
async fn settings_are_applied_for_everybody_to_read() {
    let path = tempfile::tempdir().unwrap();
    assert_eq!(applied_settings(path.path()).unwrap(), None);
    let service = Directory::open(options("r1", path.path())).await.unwrap();
    for revision in [3, 9] {
        let settings = BTreeMap::from([("node_down_after".to_owned(), format!("{revision}s"))]);
        let view = SettingsView { revision: Revision::from_number(revision), settings };
        service.apply_settings(&view).await.unwrap();
        assert_eq!(applied_settings(path.path()).unwrap(), Some(view));
    }
}

#[tokio::test]
async fn storage_tells_its_room_or_why_nothing_can_be_stored() {
    let path = tempfile::tempdir().unwrap();
    let place = path.path().join("replicas");
    fs::create_dir(&place).unwrap();
    let location = |name: &str, path: PathBuf| StorageConfig { name: name.parse().unwrap(), path };
    let storage = vec![location("default", place.clone()), location("gone", path.path().join("unmounted"))];
    let service = Directory::open(Options { storage, ..options("r1", &path.path().join("vms")) }).await.unwrap();
    let reports = service.storage().await.unwrap();
    assert!(reports[0].free_bytes > 0 && reports[0].fault.is_none(), "{reports:?}");
    assert!(reports[1].fault.as_ref().unwrap().contains("unmounted"), "{reports:?}");
    service.probe().await.unwrap();
    fs::create_dir(path.path().join("unmounted")).unwrap();
    until("the location is usable", async || service.storage().await.unwrap()[1].fault.is_none().then_some(())).await;
    fs::remove_dir_all(&place).unwrap();
    until("the loss is told", async || service.storage().await.unwrap()[0].fault.is_some().then_some(())).await;
}

fn run_over(folder: &Path, test: bool) -> Option<Run> {
    let image = folder.join("vda.raw");
    File::create(&image).unwrap().set_len(DISK).unwrap();
    let script = "echo $LANDFALL_FAILOVER $LANDFALL_SEED > kind.new; mv kind.new kind; exec sleep 600";
    let command = vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()];
    let images = vec![RunImage { target: "vda".parse().unwrap(), path: image }];
    Some(Run { test, command, images, seed: Some(folder.join("seed.img")) })
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_failover_makes_a_replica_startable_and_it_becomes_one_again() {
    let (path, storage) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let service = Directory::open(options("r1", path.path())).await.unwrap();
    let folder = path.path().join(vm_id(7).to_string());
    service.register(&registration(7, 5)).await.unwrap();
    let failed_over = Registration { run: run_over(storage.path(), false), ..registration(7, 5) };
    service.register(&failed_over).await.unwrap();
    report(&service, 7, "it is failed over", |report| report.role == VmRole::FailedOver && report.fault.is_none())
        .await;
    // Being found starts nothing of a failover.
    for _ in 0..3 {
        service.inner.scan().await.unwrap();
    }
    assert_eq!(service.list().await.unwrap()[0].state, VmState::Stopped);
    service.start(vm_id(7)).await.unwrap();
    running(&service, 7).await;
    until("the command knows what it is for", async || fs::read_to_string(folder.join("kind")).ok()).await;
    let told = format!("real {}", storage.path().join("seed.img").display());
    assert_eq!(fs::read_to_string(folder.join("kind")).unwrap().trim(), told);
    drop(service);
    let service = until("the path is free", async || Directory::open(options("r1", path.path())).await.ok()).await;
    running(&service, 7).await;
    service.stop(vm_id(7)).await.unwrap();
    service.register(&registration(7, 5)).await.unwrap();
    report(&service, 7, "it is a replica", |report| report.role == VmRole::Replica).await;
    assert_eq!(service.start(vm_id(7)).await.unwrap_err().code, "vm_is_replica");
    assert!(alive_in(&folder).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_is_a_vm_of_its_own_and_leaves_nothing() {
    let (path, storage) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let service = Directory::open(options("r1", path.path())).await.unwrap();
    service.register(&registration(7, 5)).await.unwrap();
    service.register(&Registration { run: run_over(storage.path(), true), ..registration(8, 5) }).await.unwrap();
    service.start(vm_id(8)).await.unwrap();
    running(&service, 8).await;
    let folder = path.path().join(vm_id(8).to_string());
    assert!(fs::read_to_string(folder.join("vm.toml")).unwrap().contains("connected = false"));
    until("the command knows what it is for", async || fs::read_to_string(folder.join("kind")).ok()).await;
    fs::remove_file(folder.join("kind")).unwrap();
    service.stop(vm_id(8)).await.unwrap();
    service.unregister(vm_id(8)).await.unwrap();
    until("the test is gone", async || (service.list().await.unwrap().len() == 1).then_some(())).await;
    assert!(!folder.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_vm_is_started_by_nobody_until_it_is_given_free() {
    let path = tempfile::tempdir().unwrap();
    let folder = path.path().join("one");
    let service = Directory::open(options("p1", path.path())).await.unwrap();
    // Before it is here at all.
    service.lock(vm_id(1), true).await.unwrap();
    write_vm(&folder, 1, &guest_command());
    report(&service, 1, "it is found", |report| report.fault.is_none() && report.images.len() == 2).await;
    for _ in 0..3 {
        service.inner.scan().await.unwrap();
    }
    assert_eq!(service.start(vm_id(1)).await.unwrap_err().code, "vm_locked");
    assert!(alive_in(&folder).is_empty());
    service.lock(vm_id(1), false).await.unwrap();
    running(&service, 1).await;
    // One that ran goes on when it is given free, over a restart of the service, too.
    service.lock(vm_id(1), true).await.unwrap();
    service.stop(vm_id(1)).await.unwrap();
    service.stop(vm_id(1)).await.unwrap();
    drop(service);
    let service = until("the path is free", async || Directory::open(options("p1", path.path())).await.ok()).await;
    report(&service, 1, "it is found", |report| report.fault.is_none() && report.images.len() == 2).await;
    assert_eq!(service.start(vm_id(1)).await.unwrap_err().code, "vm_locked");
    service.lock(vm_id(1), false).await.unwrap();
    running(&service, 1).await;
    service.stop(vm_id(1)).await.unwrap();
    // One that was stopped on purpose stays so.
    service.lock(vm_id(1), true).await.unwrap();
    service.stop(vm_id(1)).await.unwrap();
    service.lock(vm_id(1), false).await.unwrap();
    for _ in 0..3 {
        service.inner.scan().await.unwrap();
    }
    assert!(alive_in(&folder).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_over_vm_becomes_the_nodes_own_while_it_runs_and_is_set_aside_when_it_leaves() {
    let (path, storage) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let service = Directory::open(options("r1", path.path())).await.unwrap();
    let folder = path.path().join(vm_id(7).to_string());
    service.register(&registration(7, 5)).await.unwrap();
    assert_eq!(service.adopt(vm_id(7)).await.unwrap_err().code, "not_failed_over");
    let run = run_over(storage.path(), false);
    service.register(&Registration { run, ..registration(7, 5) }).await.unwrap();
    service.start(vm_id(7)).await.unwrap();
    running(&service, 7).await;
    let processes = alive_in(&folder);
    service.adopt(vm_id(7)).await.unwrap();
    service.adopt(vm_id(7)).await.unwrap();
    let own = |report: &VmReport| report.role == VmRole::Primary && report.state == VmState::Running;
    let shown = report(&service, 7, "it is its own", own).await;
    assert_eq!((shown.fault, shown.vm.adapters.len(), shown.images.len()), (None, 1, 1));
    // Its shell; what that starts comes and goes.
    assert_eq!(alive_in(&folder).first(), processes.first(), "it runs on");

    let id = PromotionId(9);
    assert_eq!(service.retire(vm_id(7), id).await.unwrap_err().code, "vm_runs");
    service.stop(vm_id(7)).await.unwrap();
    service.retire(vm_id(7), id).await.unwrap();
    service.retire(vm_id(7), id).await.unwrap();
    until("it is no VM", async || service.list().await.unwrap().is_empty().then_some(())).await;
    assert!(folder.join(format!("vm.toml.{id}")).exists() && storage.path().join("vda.raw").exists());
    let again = async || service.register(&registration(7, 6)).await.ok();
    until("the replica is registered", again).await;
    report(&service, 7, "it is a replica", |report| report.role == VmRole::Replica).await;
}
