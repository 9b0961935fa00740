//! Replicas, settings and storage: what the agent asks of the service.

use std::collections::BTreeMap;

use landfall_proto::id::{Epoch, Revision};
use landfall_proto::model::{Adapter, AdapterKind, DiskSpec, VmSpec};

use super::*;

fn registration(number: u128, epoch: u64) -> Registration {
    let vm = VmSpec {
        id: vm_id(number),
        name: format!("replica {number}").parse().unwrap(),
        disks: vec![DiskSpec { target: "vda".parse().unwrap(), bytes: 1 << 30 }],
        adapters: vec![Adapter {
            name: "eth0".to_owned(),
            kind: AdapterKind::Legacy,
            mac: "52:54:00:00:00:01".to_owned(),
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
