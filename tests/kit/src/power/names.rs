//! The names in folders, twice: what programs see, and what a power cut would leave.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};

use rand::Rng;
use rand_chacha::ChaCha12Rng;

/// Folder -> name -> file.
type Folders = BTreeMap<u64, BTreeMap<OsString, u64>>;

#[derive(Clone, Debug)]
enum Change {
    Put {
        folder: u64,
        name: OsString,
        file: u64,
    },
    Take {
        folder: u64,
        name: OsString,
    },
    Move {
        from: u64,
        old: OsString,
        to: u64,
        new: OsString,
        file: u64,
    },
    /// Two names that change places, with the files that they lead to afterwards.
    Swap {
        from: u64,
        old: OsString,
        to: u64,
        new: OsString,
        files: (u64, u64),
    },
}

impl Change {
    /// The folders it touches; both sides of a move or swap, which is all or nothing.
    fn folders(&self) -> [u64; 2] {
        match *self {
            Self::Put { folder, .. } | Self::Take { folder, .. } => [folder, folder],
            Self::Move { from, to, .. } | Self::Swap { from, to, .. } => [from, to],
        }
    }

    fn apply(&self, folders: &mut Folders) {
        match self {
            Self::Put { folder, name, file } => {
                folders.entry(*folder).or_default().insert(name.clone(), *file);
            }
            Self::Take { folder, name } => {
                folders.entry(*folder).or_default().remove(name);
            }
            Self::Move { from, old, to, new, file } => {
                folders.entry(*from).or_default().remove(old);
                folders.entry(*to).or_default().insert(new.clone(), *file);
            }
            Self::Swap { from, old, to, new, files } => {
                folders.entry(*from).or_default().insert(old.clone(), files.0);
                folders.entry(*to).or_default().insert(new.clone(), files.1);
            }
        }
    }
}

/// A tree of folders.
#[derive(Debug)]
pub(super) struct Names {
    live: Folders,
    durable: Folders,
    pending: Vec<Change>,
}

impl Names {
    pub fn new(root: u64) -> Self {
        let empty = Folders::from([(root, BTreeMap::new())]);
        Self { live: empty.clone(), durable: empty, pending: Vec::new() }
    }

    pub fn find(&self, folder: u64, name: &OsStr) -> Option<u64> {
        self.live.get(&folder)?.get(name).copied()
    }

    /// What programs call a file now; `None` where it has no name any more.
    pub fn name_of(&self, file: u64) -> Option<&OsStr> {
        let mut names = self.live.values().flatten();
        names.find(|(_, number)| **number == file).map(|(name, _)| name.as_os_str())
    }

    /// By how many names programs find a file now.
    pub fn count_of(&self, file: u64) -> u32 {
        self.live.values().flat_map(BTreeMap::values).filter(|number| **number == file).count() as u32
    }

    pub fn list(&self, folder: u64) -> Option<&BTreeMap<OsString, u64>> {
        self.live.get(&folder)
    }

    /// Makes `folder` one that can hold names.
    pub fn add_folder(&mut self, folder: u64) {
        self.live.entry(folder).or_default();
        self.durable.entry(folder).or_default();
    }

    pub fn put(&mut self, folder: u64, name: &OsStr, file: u64) {
        self.change(Change::Put { folder, name: name.to_owned(), file });
    }

    pub fn take(&mut self, folder: u64, name: &OsStr) {
        self.change(Change::Take { folder, name: name.to_owned() });
    }

    pub fn rename(&mut self, from: u64, old: &OsStr, to: u64, new: &OsStr, file: u64) {
        self.change(Change::Move { from, old: old.to_owned(), to, new: new.to_owned(), file });
    }

    /// Lets two names change places; `files` are what they lead to now.
    pub fn swap(&mut self, (from, old): (u64, &OsStr), (to, new): (u64, &OsStr), files: (u64, u64)) {
        let files = (files.1, files.0);
        self.change(Change::Swap { from, old: old.to_owned(), to, new: new.to_owned(), files });
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.live);
        self.pending.push(change);
    }

    /// Makes the names in `folder` durable, with whatever they depend on in other folders, and nothing else.
    pub fn sync(&mut self, folder: u64) {
        let mut needed = BTreeSet::from([folder]);
        let mut synced = vec![false; self.pending.len()];
        for (index, change) in self.pending.iter().enumerate().rev() {
            let touched = change.folders();
            if touched.iter().any(|folder| needed.contains(folder)) {
                needed.extend(touched);
                synced[index] = true;
            }
        }
        let mut synced = synced.into_iter();
        self.pending.retain(|change| {
            let now = synced.next().unwrap_or(false);
            if now {
                change.apply(&mut self.durable);
            }
            !now
        });
    }

    /// A sync that failed: nothing becomes durable, and a later one does not know of it.
    pub fn fail_sync(&mut self, folder: u64) {
        self.pending.retain(|change| !change.folders().contains(&folder));
    }

    /// The power goes. Each folder keeps its changes up to some point, in order; returns (kept, dropped).
    pub fn cut(&mut self, keep: f64, random: &mut ChaCha12Rng) -> (u64, u64) {
        let mut stopped = BTreeSet::new();
        let (mut kept, mut dropped) = (0, 0);
        for change in std::mem::take(&mut self.pending) {
            let touched = change.folders();
            if touched.iter().any(|folder| stopped.contains(folder)) || !random.random_bool(keep) {
                stopped.extend(touched);
                dropped += 1;
            } else {
                change.apply(&mut self.durable);
                kept += 1;
            }
        }
        self.live = self.durable.clone();
        (kept, dropped)
    }

    /// Every file and folder that a name leads to: now, after a cut, or by what is still open between the two.
    pub fn referenced(&self) -> BTreeSet<u64> {
        let named = |folders: &Folders| folders.values().flat_map(BTreeMap::values).copied().collect::<Vec<_>>();
        let pending = self.pending.iter().flat_map(|change| match change {
            Change::Put { file, .. } | Change::Move { file, .. } => vec![*file],
            Change::Swap { files, .. } => vec![files.0, files.1],
            Change::Take { .. } => Vec::new(),
        });
        named(&self.live).into_iter().chain(named(&self.durable)).chain(pending).collect()
    }

    /// Forgets folders that are not among `kept`.
    pub fn retain(&mut self, kept: &BTreeSet<u64>) {
        self.live.retain(|folder, _| kept.contains(folder));
        self.durable.retain(|folder, _| kept.contains(folder));
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    const ROOT: u64 = 1;

    fn names_after(seed: u64, keep: f64, make: impl Fn(&mut Names)) -> Vec<String> {
        let mut names = Names::new(ROOT);
        make(&mut names);
        names.cut(keep, &mut ChaCha12Rng::seed_from_u64(seed));
        names.list(ROOT).unwrap().keys().map(|name| name.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn a_rename_over_a_name_is_all_or_nothing() {
        for seed in 0..100 {
            let left = names_after(seed, 0.5, |names| {
                names.put(ROOT, "log".as_ref(), 2);
                names.sync(ROOT);
                names.put(ROOT, "log.new".as_ref(), 3);
                names.rename(ROOT, "log.new".as_ref(), ROOT, "log".as_ref(), 3);
            });
            assert!(left == ["log"] || left == ["log", "log.new"], "seed {seed}: {left:?}");
        }
    }

    #[test]
    fn two_names_change_places_or_do_not() {
        let seen: BTreeSet<bool> = (0..100)
            .map(|seed| {
                let mut names = Names::new(ROOT);
                for (name, file) in [("a", 2), ("b", 3)] {
                    names.put(ROOT, name.as_ref(), file);
                }
                names.sync(ROOT);
                names.swap((ROOT, "a".as_ref()), (ROOT, "b".as_ref()), (2, 3));
                assert_eq!((names.find(ROOT, "a".as_ref()), names.find(ROOT, "b".as_ref())), (Some(3), Some(2)));
                names.cut(0.5, &mut ChaCha12Rng::seed_from_u64(seed));
                let found = (names.find(ROOT, "a".as_ref()), names.find(ROOT, "b".as_ref()));
                assert!([(Some(2), Some(3)), (Some(3), Some(2))].contains(&found), "seed {seed}: {found:?}");
                found.0 == Some(3)
            })
            .collect();
        assert_eq!(seen.len(), 2, "either happens");
    }

    #[test]
    fn a_name_that_was_not_synced_can_be_lost_and_one_that_was_cannot() {
        let lost = (0..100).filter(|&seed| names_after(seed, 0.5, |names| names.put(ROOT, "a".as_ref(), 2)).is_empty());
        assert!((20..80).contains(&lost.count()));
        let synced = |names: &mut Names| {
            names.put(ROOT, "a".as_ref(), 2);
            names.sync(ROOT);
        };
        assert!((0..100).all(|seed| names_after(seed, 0.5, synced) == ["a"]));
    }

    #[test]
    fn syncing_one_folder_saves_no_names_in_another() {
        let left = names_after(1, 0.0, |names| {
            names.put(ROOT, "sub".as_ref(), 2);
            names.add_folder(2);
            names.put(2, "inside".as_ref(), 3);
            names.sync(2);
        });
        assert!(left.is_empty(), "the sub-folder's own name was never synced: {left:?}");
    }

    #[test]
    fn a_move_between_folders_is_durable_once_either_is_synced() {
        let left = names_after(1, 0.0, |names| {
            names.put(ROOT, "sub".as_ref(), 2);
            names.add_folder(2);
            names.put(2, "a".as_ref(), 3);
            names.rename(2, "a".as_ref(), ROOT, "a".as_ref(), 3);
            names.sync(ROOT);
        });
        assert_eq!(left, ["a", "sub"]);
    }
}
