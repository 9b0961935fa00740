//! Copies of a replica in passes, while its holder goes on: what each pass carries, and what is left of one that broke off.

use std::path::Path;

use super::chain_test::check_with_qemu;
use super::test_primary::{Primary, VM, check_points, epochs, exported, listed, stage};
use super::*;
use crate::drive::image::HashIndex;
use crate::drive::image::durable::faults;

/// Points that the holder keeps, the newest included.
const KEEP: usize = 4;

struct Site {
    folder: tempfile::TempDir,
    primary: Primary,
    store: ReplicaStore,
}

impl Site {
    /// A holder with a full set of points of two disks.
    fn new(sizes: &[usize]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let primary = Primary::new(&folder.path().join("scratch"), sizes, 21);
        let mut store = ReplicaStore::open(&folder.path().join("r"), VM).unwrap();
        store.set_recovery_points(KEEP as u8 - 1).unwrap();
        let mut site = Self { folder, primary, store };
        for _ in 0..=KEEP {
            site.point();
        }
        std::fs::create_dir(site.folder.path().join("there")).unwrap();
        site
    }

    fn target(&self) -> std::path::PathBuf {
        self.folder.path().join("there").join("replica")
    }

    /// The holder takes a change set.
    fn point(&mut self) {
        self.primary.write();
        self.primary.disks[0].1[0] ^= 1;
        self.primary.replicate(&mut self.store).unwrap();
    }

    /// The copy that took its place is the replica, and goes on from there.
    fn check_copy(&mut self) {
        let mut copy = ReplicaStore::open(&self.target(), VM).unwrap();
        assert!(copy.fault().is_none(), "{:?}", copy.fault());
        assert_eq!(listed(&copy).last(), listed(&self.store).last());
        check_points(&copy, &self.primary.history);
        check_with_qemu(&copy);
        for disk in &copy.manifest().newest().unwrap().disks {
            let index = HashIndex::open(&self.target().join(layout::index_name(&disk.target))).unwrap().unwrap();
            assert_eq!((index.root(), index.compute_root().unwrap()), (Some(disk.root), Some(disk.root)));
        }
        self.primary.write();
        self.primary.replicate(&mut copy).unwrap();
        check_points(&copy, &self.primary.history);
        assert_eq!(
            std::fs::read_dir(self.target().parent().unwrap()).unwrap().count(),
            1,
            "nothing else is left there"
        );
    }
}

/// Fetches up to `most` pieces; the files that were asked for.
fn fetch(import: &mut Import, source: &mut CopySource, most: usize) -> Result<Vec<String>, landfall_proto::Refusal> {
    let mut files = Vec::new();
    for _ in 0..most {
        let Some(step) = import.next_step() else { break };
        import.feed(&source.read(&step.file, step.offset, step.length).unwrap())?;
        files.push(step.file);
    }
    files.dedup();
    Ok(files)
}

fn begin(target: &Path, source: &CopySource) -> Result<Import, landfall_proto::Refusal> {
    Import::begin(target, VM, source.listing().clone())
}

#[test]
fn the_holder_goes_on_during_the_first_pass_and_the_frozen_one_carries_only_the_rest() {
    let mut site = Site::new(&[4_000_000, 100_000]);
    let first = site.store.manifest().points[0].sequence;
    let mut source = site.store.copy_source(false).unwrap();
    let mut import = begin(&site.target(), &source).unwrap();
    fetch(&mut import, &mut source, 3).unwrap();
    for _ in 0..KEEP + 2 {
        site.point();
    }
    assert_eq!(listed(&site.store)[0], first, "what is being copied is not merged meanwhile");
    fetch(&mut import, &mut source, usize::MAX).unwrap();
    import.check().unwrap();
    let (unfrozen, earlier) = (import.received(), source.files().to_vec());

    // The listing that freezes is made while the earlier one still holds its pins.
    let mut frozen = site.store.copy_source(true).unwrap();
    drop(source);
    let (set, extents) = {
        site.primary.write();
        site.primary.next_set(site.store.standing().newest)
    };
    assert_eq!(stage(&mut site.store, &set, &extents).unwrap_err().code, "frozen");
    import.again(frozen.listing().clone()).unwrap();
    let files = fetch(&mut import, &mut frozen, usize::MAX).unwrap();
    let manifest = || std::iter::once(layout::MANIFEST.to_owned());
    let rest = frozen.files().iter().filter(|file| !earlier.contains(file)).map(|(name, _)| name.clone());
    let rest: Vec<String> = manifest().chain(rest.filter(|name| name != layout::MANIFEST)).collect();
    assert_eq!(files, rest, "only what the first pass has not brought");
    let base = site.store.manifest().points[0].disks[0].file.clone();
    assert!(!files.contains(&base), "the base does not change under a copy");
    let most: u64 = frozen.files().iter().filter(|(name, _)| rest.contains(name)).map(|(_, size)| size).sum();
    assert!(import.received() - unfrozen <= most, "{unfrozen} of {}", import.received());
    import.finish().unwrap();
    assert!(listed(&site.store).len() > KEEP);
    drop(frozen);
    site.primary.history.remove(&set.tip.sequence);
    site.primary.sequence -= 1;
    site.check_copy();

    // The holder that was not relieved goes on as well.
    let mut source = site.primary.history.keys().copied().collect::<Vec<_>>();
    source.retain(|sequence| listed(&site.store).contains(sequence));
    assert!(exported(&site.store, source[0]).is_ok());
}

#[test]
fn a_change_set_that_had_begun_does_not_land_in_a_frozen_replica_and_goes_on_after_it() {
    let mut site = Site::new(&[500_000]);
    site.primary.write();
    site.primary.disks[0].1[5] ^= 1;
    let (set, extents) = site.primary.next_set(site.store.standing().newest);
    site.store.begin(&epochs(), &set).unwrap();
    for extent in &extents {
        site.store.append(&epochs(), extent).unwrap();
    }
    let frozen = site.store.copy_source(true).unwrap();
    assert_eq!(site.store.append(&epochs(), &extents[0]).unwrap_err().code, "frozen");
    let count = extents.len() as u64;
    assert_eq!(site.store.finish(&epochs(), count).unwrap_err().code, "frozen", "the copy would not have it");
    drop(frozen);
    site.store.finish(&epochs(), count).unwrap();
    assert_eq!(site.store.commit().unwrap().sequence, set.tip.sequence);
    check_points(&site.store, &site.primary.history);
}

#[test]
fn a_pass_over_files_that_changed_meanwhile_is_found_out_or_right() {
    let mut site = Site::new(&[900_000]);
    let mut source = site.store.copy_source(false).unwrap();
    let mut import = begin(&site.target(), &source).unwrap();
    fetch(&mut import, &mut source, usize::MAX).unwrap();
    import.check().unwrap();
    // Nobody holds the points of the first listing: they are merged, and names mean other files.
    drop(source);
    for _ in 0..2 {
        site.point();
    }
    let mut source = site.store.copy_source(true).unwrap();
    import.again(source.listing().clone()).unwrap();
    fetch(&mut import, &mut source, usize::MAX).unwrap();
    match import.finish() {
        Ok(damaged) => assert!(damaged.is_empty()),
        Err(refusal) => {
            assert!(!site.target().exists(), "{refusal}");
            let mut import = begin(&site.target(), &source).unwrap();
            fetch(&mut import, &mut source, usize::MAX).unwrap();
            import.finish().unwrap();
        }
    }
    drop(source);
    site.check_copy();
}

/// Goes through both passes, and stops after `most` pieces in pass `stop`.
fn broken_off(site: &mut Site, stop: usize, most: usize) -> Option<()> {
    let mut source = site.store.copy_source(false).unwrap();
    let mut import = begin(&site.target(), &source).unwrap();
    for pass in 0..2 {
        let most = if pass == stop { most } else { usize::MAX };
        fetch(&mut import, &mut source, most).unwrap();
        if pass == stop {
            return import.next_step().map(drop);
        }
        import.check().unwrap();
        site.point();
        let frozen = site.store.copy_source(true).unwrap();
        source = frozen;
        import.again(source.listing().clone()).unwrap();
    }
    None
}

#[test]
fn a_copy_that_breaks_off_in_any_pass_leaves_the_holder_as_it_is_and_the_next_one_right() {
    let mut site = Site::new(&[1_500_000]);
    for stop in 0..2 {
        for most in [0, 1, 2] {
            assert!(broken_off(&mut site, stop, most).is_some(), "pass {stop} has more than {most} pieces");
            assert!(!site.target().exists());
            // Frozen no longer, and nothing pinned: points come and go.
            site.point();
            assert_eq!(listed(&site.store).len(), KEEP);
        }
    }
    check_points(&site.store, &site.primary.history);
    let mut source = site.store.copy_source(true).unwrap();
    let mut import = begin(&site.target(), &source).unwrap();
    fetch(&mut import, &mut source, usize::MAX).unwrap();
    import.finish().unwrap();
    drop(source);
    site.check_copy();

    // What a copy left that nobody goes on with is removed by its name.
    broken_off(&mut site, 0, 1).unwrap();
    Import::discard(&site.target(), VM).unwrap();
    Import::discard(&site.target(), VM).unwrap();
    assert_eq!(std::fs::read_dir(site.target().parent().unwrap()).unwrap().count(), 1);
}

#[test]
fn a_copy_whose_disk_fails_at_any_step_is_made_again() {
    let mut site = Site::new(&[300_000]);
    let mut failures = 0;
    for at in (0..).step_by(3) {
        faults::fail_from(Some(at), 5);
        let mut source = site.store.copy_source(true);
        let done = source.as_mut().map_err(|refusal| refusal.clone()).and_then(|source| {
            let mut import = begin(&site.target(), source)?;
            fetch(&mut import, source, usize::MAX)?;
            import.check()?;
            import.again(source.listing().clone())?;
            fetch(&mut import, source, usize::MAX)?;
            import.finish()
        });
        let taken = faults::taken();
        faults::fail_from(None, 0);
        drop(source);
        site.point();
        check_points(&site.store, &site.primary.history);
        if let Ok(copy) = Manifest::load(&site.target().join(layout::MANIFEST)) {
            assert!(copy.is_none_or(|copy| !copy.points.is_empty()), "step {at}: what has its place is whole");
        }
        match done {
            Ok(_) if taken <= at => break,
            Ok(damaged) => assert!(damaged.is_empty(), "step {at}"),
            Err(_) => failures += 1,
        }
    }
    assert!(failures > 10, "{failures} steps failed");
}

const FOLDER: &str = "LANDFALL_COPY_FOLDER";
const STEP: &str = "LANDFALL_COPY_STEP";

/// The whole copy, as an agent makes it in two passes.
fn copy_once(folder: &Path) -> Result<(), landfall_proto::Refusal> {
    let mut store = ReplicaStore::open(&folder.join("r"), VM)?;
    let mut source = store.copy_source(true)?;
    let mut import = begin(&folder.join("there").join("replica"), &source)?;
    import.reuse(store.manifest())?;
    fetch(&mut import, &mut source, usize::MAX)?;
    import.check()?;
    import.again(source.listing().clone())?;
    fetch(&mut import, &mut source, usize::MAX)?;
    import.finish().map(drop)
}

#[test]
fn a_copy_that_is_killed_at_any_step_is_made_again() {
    let Site { folder, primary, store } = Site::new(&[300_000]);
    let (newest, place) = (listed(&store).last().copied(), folder.path().join("there").join("replica"));
    drop(store);
    faults::fail_from(None, 0);
    copy_once(folder.path()).unwrap();
    let steps = faults::taken();
    let every = if std::env::var_os("LANDFALL_LONG").is_some() { 1 } else { 4 };
    let whole = |shown: &str| {
        let copy = ReplicaStore::open(&place, VM).unwrap_or_else(|refusal| panic!("{shown}: {refusal}"));
        assert!(copy.fault().is_none() && listed(&copy).last().copied() == newest, "{shown}: {:?}", copy.fault());
        check_points(&copy, &primary.history);
    };
    let mut killed = 0;
    for (step, over) in (0..steps).step_by(every).flat_map(|step| [(step, false), (step, true)]) {
        let shown = format!("killed at step {step} of {steps}, over an earlier copy: {over}");
        if !over {
            std::fs::remove_dir_all(&place).unwrap();
        }
        let mut child = std::process::Command::new("/proc/self/exe");
        child.args(["--exact", "drive::replica::import_test::the_copying_child", "--test-threads=1"]);
        child.env(FOLDER, folder.path()).env(STEP, step.to_string());
        child.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        killed += u64::from(!child.status().unwrap().success());
        if over || place.exists() {
            whole(&shown);
        }
        copy_once(folder.path()).unwrap_or_else(|refusal| panic!("{shown}, again: {refusal}"));
        whole(&shown);
        assert_eq!(std::fs::read_dir(place.parent().unwrap()).unwrap().count(), 1, "{shown}: nothing else is left");
    }
    println!("{killed} copies killed at {steps} steps");
    assert!(killed > steps / every as u64, "{killed} of {steps}");
}

/// Dies at a step of a copy: run by the test above through this one's own name.
#[test]
fn the_copying_child() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    faults::kill_at(std::env::var(STEP).unwrap().parse().unwrap());
    copy_once(Path::new(&folder)).unwrap();
}
