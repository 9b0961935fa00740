//! Branches: they outlive retention, copies that take the replica's place, and nothing but an operator's word.

use landfall_proto::model::PointName;

use super::super::import::Import;
use super::super::test_primary::{Primary, VM, check_points, listed};
use super::*;

const RUN: PromotionId = PromotionId(0xabc);
const OTHER: PromotionId = PromotionId(0xdef);

struct Site {
    folder: tempfile::TempDir,
    primary: Primary,
}

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let primary = Primary::new(&folder.path().join("scratch"), &[300_000], 11);
        fs::create_dir(folder.path().join("here")).unwrap();
        Self { folder, primary }
    }

    fn replica(&self) -> PathBuf {
        self.folder.path().join("here").join("r")
    }

    fn point(&mut self, store: &mut ReplicaStore) {
        self.primary.write();
        self.primary.replicate(store).unwrap();
    }

    /// A replica of one point with a branch over it, and points that came later.
    fn with_branch(&mut self) -> ReplicaStore {
        let mut store = ReplicaStore::open(&self.replica(), VM).unwrap();
        store.set_recovery_points(1).unwrap();
        self.point(&mut store);
        let point = PointName { sequence: 1, root: store.manifest().point(1).unwrap().root };
        store.begin_run(RUN, point, false).unwrap().make(&|_| false, &mut |_| Ok(())).unwrap();
        store.keep_branch(RUN).unwrap();
        assert_eq!((store.runs(), store.branches()), (vec![], vec![RUN]));
        for _ in 0..3 {
            self.point(&mut store);
        }
        store
    }
}

#[test]
fn a_branch_keeps_its_point_over_a_restart_until_it_is_removed() {
    let mut site = Site::new();
    drop(site.with_branch());
    let mut store = ReplicaStore::open(&site.replica(), VM).unwrap();
    site.point(&mut store);
    assert_eq!((store.branches(), listed(&store)[0]), (vec![RUN], 1));
    check_points(&store, &site.primary.history);
    assert!(!store.drop_branch(OTHER).unwrap());
    assert!(store.drop_branch(RUN).unwrap());
    assert!(!store.drop_branch(RUN).unwrap());
    assert_eq!((store.branches().len(), listed(&store).len()), (0, 2), "its point goes with it");
    check_points(&store, &site.primary.history);
    assert!(!names_in(&site.replica()).iter().any(|name| name.contains(&RUN.to_string())));
}

/// Copies what `store` has to `target`, where a replica may be.
fn copied(store: &mut ReplicaStore, target: &Path) {
    let mut source = store.copy_source(false).unwrap();
    let mut import = Import::begin(target, VM, source.listing().clone()).unwrap();
    while let Some(step) = import.next_step() {
        let piece = source.read(&step.file, step.offset, step.length).unwrap();
        import.feed(&piece).unwrap();
    }
    import.finish().unwrap();
}

#[test]
fn a_copy_that_takes_the_place_of_the_replica_leaves_its_branches_beside_it() {
    let mut site = Site::new();
    let mut store = site.with_branch();
    let (here, there) = (site.replica(), site.folder.path().join("there"));
    fs::create_dir(&there).unwrap();
    copied(&mut store, &there.join("r"));
    drop(store);
    let mut elsewhere = ReplicaStore::open(&there.join("r"), VM).unwrap();
    assert_eq!(elsewhere.branches(), [], "a branch is where it was made");
    // The replica comes back to where the branch is.
    copied(&mut elsewhere, &here);
    let mut store = ReplicaStore::open(&here, VM).unwrap();
    check_points(&store, &site.primary.history);
    assert_eq!((store.branches(), branches_in(&here).len()), (vec![RUN], 0), "beside it, and told of");
    let kept = kept_beside(&here);
    assert!(kept.len() == 1 && kept[0].join(name(RUN)).join("images").exists(), "{kept:?}");
    assert!(!store.drop_branch(RUN).unwrap());
    assert!(remove_from(&here, RUN).unwrap());
    assert!(!remove_from(&here, RUN).unwrap());
    assert_eq!((kept_beside(&here).len(), store.branches().len()), (0, 0));
    check_points(&store, &site.primary.history);
}
