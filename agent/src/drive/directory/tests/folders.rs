//! VMs come, go, move and clash with their folders.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_moves_to_another_nodes_path_is_a_vm_that_migrates() {
    let root = tempfile::tempdir().unwrap();
    let (first, second) = (root.path().join("p1"), root.path().join("p2"));
    let p1 = Directory::open(options("p1", &first)).await.unwrap();
    let p2 = Directory::open(options("p2", &second)).await.unwrap();
    write_vm(&first.join("vm"), 1, &guest_command());
    running(&p1, 1).await;
    progress(&first.join("vm")).await;
    let old = alive_in(&first.join("vm"));
    fs::rename(first.join("vm"), second.join("vm")).unwrap();
    running(&p2, 1).await;
    progress(&second.join("vm")).await;
    until("the old node forgets it", async || p1.list().await.unwrap().is_empty().then_some(())).await;
    let new = alive_in(&second.join("vm"));
    assert!(!new.is_empty() && new.iter().all(|pid| !old.contains(pid)), "{old:?} {new:?}");
    // The guest refuses disks that are no instant: two of them would have ended each other.
    let frozen = p2.freeze(vm_id(1), Duration::from_secs(60)).await.unwrap();
    instant_of(&frozen.images.iter().map(|image| image.path.clone()).collect::<Vec<_>>()).unwrap();
    p2.thaw(frozen.freeze).await.unwrap();
    p2.stop(vm_id(1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_renamed_within_its_path_goes_on_running() {
    let path = tempfile::tempdir().unwrap();
    let (old, new) = (path.path().join("old"), path.path().join("new"));
    write_vm(&old, 1, &guest_command());
    let service = Directory::open(options("p1", path.path())).await.unwrap();
    running(&service, 1).await;
    progress(&old).await;
    let pids = alive_in(&old);
    fs::rename(&old, &new).unwrap();
    let moved = report(&service, 1, "the new name is seen", |report| {
        report.images.iter().any(|image| image.path.starts_with(&new))
    });
    assert_eq!(moved.await.state, VmState::Running);
    assert_eq!(alive_in(&new), pids);
    progress(&new).await;
    service.stop(vm_id(1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_identity_in_two_folders_is_told_of_both_and_the_second_never_starts() {
    let path = tempfile::tempdir().unwrap();
    let (a, b) = (path.path().join("a"), path.path().join("b"));
    write_vm(&a, 1, &guest_command());
    write_vm(&path.path().join("other"), 2, &[]);
    let service = Directory::open(options("p1", path.path())).await.unwrap();
    running(&service, 1).await;
    progress(&a).await;
    write_vm(&b, 1, &guest_command());
    let list = until("both are told", async || {
        let list = service.list().await.unwrap();
        let told = |report: &&VmReport| report.fault.as_ref().is_some_and(|fault| fault.code == "duplicate_vm");
        (list.iter().filter(told).count() == 2).then_some(list)
    })
    .await;
    for report in list.iter().filter(|report| report.vm.id == vm_id(1)) {
        let fault = report.fault.as_ref().unwrap();
        assert!(fault.message.contains(a.to_str().unwrap()) && fault.message.contains(b.to_str().unwrap()), "{fault}");
    }
    assert_eq!(service.freeze(vm_id(1), Duration::from_secs(1)).await.unwrap_err().code, "duplicate_vm");
    progress(&a).await;
    assert_eq!(alive_in(&b), Vec::<i32>::new());
    fs::remove_dir_all(&b).unwrap();
    report(&service, 1, "the fault goes with the twin", |report| report.fault.is_none()).await;
    service.stop(vm_id(1)).await.unwrap();
    service.stop(vm_id(1)).await.unwrap();
    assert_eq!(alive_in(&a), Vec::<i32>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fault_of_one_vm_is_its_own() {
    let path = tempfile::tempdir().unwrap();
    write_vm(&path.path().join("good"), 1, &[]);
    write_vm(&path.path().join("bad"), 2, &guest_command());
    let bad = vm_toml(2, &guest_command()).replace("vdb", "v/b").replace("synthetic", "magic");
    fs::write(path.path().join("bad/vm.toml"), bad).unwrap();
    fs::create_dir_all(path.path().join("nameless")).unwrap();
    fs::write(path.path().join("nameless/vm.toml"), "not toml at all").unwrap();
    write_vm(&path.path().join("short"), 3, &guest_command());
    File::create(path.path().join("short/b.raw")).unwrap().set_len(1000).unwrap();
    let service = Directory::open(options("p1", path.path())).await.unwrap();
    let good = report(&service, 1, "the good one is listed", |report| report.images.len() == 2).await;
    assert_eq!(good.fault, None);
    assert_eq!(good.vm.disks[0].bytes, DISK);
    let fault = report(&service, 2, "the bad one is listed", |_| true).await.fault.unwrap();
    assert!(
        fault.message.contains("vm.toml:8: disk.target") && fault.message.contains("vm.toml:12: adapter.kind"),
        "{fault}"
    );
    let short = report(&service, 3, "the short one is told", |report| report.fault.is_some()).await;
    let fault = short.fault.unwrap();
    assert!(fault.message.contains("short/b.raw") && fault.message.contains("truncated"), "{fault}");
    assert!(fault.remedy.is_some() && short.state == VmState::Stopped);
    let list = service.list().await.unwrap();
    let nameless = list.iter().find(|report| report.vm.name.as_str() == "nameless").unwrap();
    assert!(nameless.fault.as_ref().unwrap().message.contains("vm.toml:1"), "{nameless:?}");
    // Mended, it starts by itself.
    File::create(path.path().join("short/b.raw")).unwrap().set_len(DISK).unwrap();
    running(&service, 3).await;
    service.stop(vm_id(3)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_does_not_stop_a_vm_that_runs() {
    let path = tempfile::tempdir().unwrap();
    let folder = path.path().join("one");
    write_vm(&folder, 1, &guest_command());
    let service = Directory::open(options("p1", path.path())).await.unwrap();
    running(&service, 1).await;
    progress(&folder).await;
    let pids = alive_in(&folder);
    fs::write(folder.join("vm.toml"), "uuid = \"").unwrap();
    report(&service, 1, "the fault is told", |report| report.fault.is_some()).await;
    fs::remove_file(folder.join("vm.toml")).unwrap();
    let missing = |report: &VmReport| report.fault.as_ref().is_some_and(|fault| fault.code == "file_missing");
    report(&service, 1, "the missing file is told", missing).await;
    assert_eq!(alive_in(&folder), pids);
    fs::write(folder.join("vm.toml"), vm_toml(1, &guest_command())).unwrap();
    report(&service, 1, "the fault is gone", |report| report.fault.is_none()).await;
    assert_eq!(alive_in(&folder), pids);
    fs::rename(&folder, path.path().join(".gone")).unwrap();
    until("the VM is gone", async || service.list().await.unwrap().is_empty().then_some(())).await;
    assert_eq!(alive_in(&path.path().join(".gone")), Vec::<i32>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ended_by_itself_or_on_purpose_is_not_started_again() {
    let path = tempfile::tempdir().unwrap();
    write_vm(&path.path().join("brief"), 1, &["sh".to_owned(), "-c".to_owned(), "echo once >> count".to_owned()]);
    write_vm(&path.path().join("stopped"), 2, &guest_command());
    let service = Directory::open(options("p1", path.path())).await.unwrap();
    running(&service, 2).await;
    service.stop(vm_id(2)).await.unwrap();
    let count = || fs::read_to_string(path.path().join("brief/count")).unwrap_or_default();
    until("it has run", async || (!count().is_empty()).then_some(())).await;
    let ended = report(&service, 1, "it has ended", |report| report.state == VmState::Stopped).await;
    drop(service);
    let service = until("the path is free", async || Directory::open(options("p1", path.path())).await.ok()).await;
    for number in [1, 2] {
        assert_eq!(report(&service, number, "it is listed", |_| true).await.state, VmState::Stopped);
    }
    // Three more scans than a start needs.
    for _ in 0..5 {
        service.inner.scan().await.unwrap();
    }
    assert_eq!(count(), "once\n");
    let now = report(&service, 1, "it is listed", |_| true).await;
    assert!(now.run != ended.run && now.state == VmState::Stopped, "nobody watched in between");
    service.start(vm_id(1)).await.unwrap();
    until("it runs once more", async || (count() == "once\nonce\n").then_some(())).await;
}

#[tokio::test]
async fn a_path_has_one_service_and_belongs_to_one_node() {
    let path = tempfile::tempdir().unwrap();
    let service = Directory::open(options("p1", path.path())).await.unwrap();
    let refusal = Directory::open(options("p2", path.path())).await.err().unwrap();
    assert_eq!(refusal.code, "vm_path_taken");
    assert!(refusal.message.contains("node 'p1'"), "{refusal}");
    drop(service);
    let refusal = until("the first one has let go", async || {
        let refusal = Directory::open(options("p2", path.path())).await.err().unwrap();
        refusal.message.contains("not to").then_some(refusal)
    });
    assert!(refusal.await.remedy.unwrap().contains("remove"));
}
