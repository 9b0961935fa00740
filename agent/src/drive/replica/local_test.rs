//! Content that is here already: a seed, and the disks of a VM that ran here.

use super::*;
use crate::drive::image::durable::faults;
use crate::drive::image::test_disk::{MemoryDisk, StepClock};
use crate::drive::replica::test_primary::{Primary, VM, check_points, epochs, exported, listed};

fn disks(primary: &Primary) -> Vec<(DiskSpec, MemoryDisk)> {
    primary.specs().into_iter().zip(primary.disks.iter().map(|(_, data)| MemoryDisk(data.clone()))).collect()
}

fn rooted(disks: &[(DiskSpec, MemoryDisk)]) -> Vec<(Local<'_>, Root)> {
    let root = |disk: &MemoryDisk| Root(*blake3::hash(&disk.0).as_bytes());
    disks.iter().map(|(spec, disk)| ((spec.clone(), disk as &dyn Readable), root(disk))).collect()
}

fn take_in(store: &mut ReplicaStore, primary: &Primary, sequence: u64) -> Result<Point, Refusal> {
    let disks = disks(primary);
    let local: Vec<Local<'_>> = disks.iter().map(|(spec, disk)| (spec.clone(), disk as &dyn Readable)).collect();
    store.take_in(&epochs(), &local, (sequence, UnixMillis(5)), &StepClock::default())
}

#[test]
fn a_seed_is_compared_and_only_what_changed_since_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let mut primary = Primary::new(&folder.path().join("scratch"), &[900_000, 70_001], 3);
    let mut store = ReplicaStore::open(&folder.path().join("r"), VM).unwrap();
    store.admit(&epochs(), &primary.specs(), &[]).unwrap();
    let seed = disks(&primary);
    store.take_seed(&rooted(&seed), &StepClock::default(), &mut |_| Ok(())).unwrap();
    // Whoever was sending meanwhile has to look anew.
    let (set, _) = primary.next_set(None);
    assert_eq!(store.begin(&epochs(), &set).unwrap_err().code, "not_admitted");
    assert!(store.manifest().points.is_empty(), "nothing of a seed is a point");
    drop(store);
    let mut store = ReplicaStore::open(&folder.path().join("r"), VM).unwrap();
    primary.disks[0].1[5000] ^= 1;
    assert!(store.admit(&epochs(), &primary.specs(), &[]).unwrap().comparable);
    let sent: u64 = primary.compared(&mut store).iter().map(crate::drive::image::extent::length).sum();
    assert_eq!(sent, BLOCK_BYTES);
    primary.replicate(&mut store).unwrap();
    check_points(&store, &primary.history);
    let seed = disks(&primary);
    let refusal = store.take_seed(&rooted(&seed), &StepClock::default(), &mut |_| Ok(())).unwrap_err();
    assert_eq!((refusal.code.as_str(), refusal.field.as_deref()), ("has_points", Some("vm")));
}

#[test]
fn nothing_is_kept_of_a_seed_whose_files_are_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let primary = Primary::new(&folder.path().join("scratch"), &[400_000, 70_001], 4);
    let mut store = ReplicaStore::open(&folder.path().join("r"), VM).unwrap();
    let mut seed = disks(&primary);
    let roots: Vec<Root> = rooted(&seed).iter().map(|(_, root)| *root).collect();
    seed[1].1.0[70_000] ^= 1;
    let named: Vec<(Local<'_>, Root)> =
        seed.iter().zip(roots).map(|((spec, disk), root)| ((spec.clone(), disk as &dyn Readable), root)).collect();
    let refusal = store.take_seed(&named, &StepClock::default(), &mut |_| Ok(())).unwrap_err();
    assert!(refusal.code == "seed_damaged" && refusal.message.contains("vdb"), "{refusal}");
    assert!(!store.admit(&epochs(), &primary.specs(), &[]).unwrap().comparable);
}

#[test]
fn the_disks_of_a_vm_that_is_off_become_a_point_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut primary = Primary::new(&folder.path().join("scratch"), &[400_000, 70_001], 5);
    let mut store = ReplicaStore::open(&folder.path().join("r"), VM).unwrap();
    store.set_recovery_points(4).unwrap();
    for sequence in [7, 9] {
        primary.write();
        primary.disks[0].1[1] ^= 1;
        let point = take_in(&mut store, &primary, sequence).unwrap();
        assert_eq!((point.sequence, point.consistency), (sequence, Consistency::Off));
        assert_eq!(take_in(&mut store, &primary, 30).unwrap().sequence, sequence, "it is there already");
        drop(store);
        store = ReplicaStore::open(&folder.path().join("r"), VM).unwrap();
        let shown: Vec<Vec<u8>> = primary.disks.iter().map(|(_, data)| data.clone()).collect();
        assert_eq!(exported(&store, sequence).unwrap(), shown);
    }
    primary.disks[0].1[2] ^= 1;
    assert_eq!(take_in(&mut store, &primary, 3).unwrap().sequence, 10, "numbers go up");
    assert_eq!(listed(&store), [7, 9, 10]);
}

#[test]
fn taking_disks_in_may_fail_at_any_step_and_is_done_again() {
    for with_points in [false, true] {
        let mut at = 0;
        loop {
            let folder = tempfile::tempdir().unwrap();
            let mut primary = Primary::new(&folder.path().join("scratch"), &[300_000, 70_001], 6);
            let mut store = ReplicaStore::open(&folder.path().join("r"), VM).unwrap();
            store.set_recovery_points(4).unwrap();
            if with_points {
                primary.replicate(&mut store).unwrap();
                primary.write();
                primary.disks[0].1[3] ^= 1;
            }
            faults::fail_from(Some(at), rustix::io::Errno::NOSPC.raw_os_error());
            let done = take_in(&mut store, &primary, 20);
            let taken = faults::taken();
            faults::fail_from(None, 0);
            drop(store);
            let mut store = ReplicaStore::open(&folder.path().join("r"), VM).unwrap();
            let again = take_in(&mut store, &primary, 20).unwrap_or_else(|refusal| panic!("step {at}: {refusal}"));
            assert_eq!(again.sequence, 20, "step {at}");
            let shown: Vec<Vec<u8>> = primary.disks.iter().map(|(_, data)| data.clone()).collect();
            assert_eq!(exported(&store, 20).unwrap(), shown, "step {at}");
            if done.is_ok() && taken <= at {
                break;
            }
            at += 5;
        }
    }
}
