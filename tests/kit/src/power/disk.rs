//! The disk behind a [`super::PowerDisk`]: files, names, and the faults that a test asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{Errno, FileAttr, FileType, INodeNo};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;

use super::names::Names;
use super::pages::{Contents, PAGE};

/// The number that FUSE gives the root folder.
pub(super) const ROOT: u64 = 1;
/// What a disk without a limit says it has: 64 GiB.
const NOMINAL_BYTES: u64 = 64 << 30;

#[derive(Debug)]
pub(super) struct Disk {
    state: Mutex<State>,
    released: Condvar,
}

/// Syncs that a disk answers with success and does not carry out: as if the code under test had left them out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Unsynced {
    /// All are carried out.
    #[default]
    Nothing,
    /// Those of files in whose name this occurs.
    Files(String),
    /// Those of folders.
    Folders,
}

/// What was lost and kept in all cuts of a disk so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Toll {
    /// Pages that were dropped.
    pub pages_dropped: u64,
    /// Pages of which some sectors were written.
    pub pages_torn: u64,
    /// Pages that were kept though nobody had synced them.
    pub pages_kept: u64,
    /// Names whose change was dropped.
    pub names_dropped: u64,
    /// Names whose change was kept though nobody had synced it.
    pub names_kept: u64,
}

#[derive(Debug)]
pub(super) struct Node {
    pub kind: FileType,
    pub mode: u16,
    pub owner: (u32, u32),
    pub changed: SystemTime,
    pub contents: Contents,
    open: u64,
}

#[derive(Debug)]
pub(super) struct State {
    pub nodes: BTreeMap<u64, Node>,
    pub names: Names,
    next: u64,
    /// Counts mounts: one from before a cut sees nothing but errors.
    life: u64,
    dark: bool,
    operations: u64,
    syncs: u64,
    cut_at: Option<u64>,
    fail_sync_at: Option<u64>,
    unsynced: Unsynced,
    random: ChaCha12Rng,
    limit: Option<u64>,
    pub sync_delay: Duration,
    hung: bool,
    toll: Toll,
}

impl Disk {
    pub fn new() -> Self {
        let root = Node::new(FileType::Directory, 0o755, (0, 0));
        Self {
            released: Condvar::new(),
            state: Mutex::new(State {
                nodes: BTreeMap::from([(ROOT, root)]),
                names: Names::new(ROOT),
                next: ROOT + 1,
                life: 0,
                dark: false,
                operations: 0,
                syncs: 0,
                cut_at: None,
                fail_sync_at: None,
                unsynced: Unsynced::Nothing,
                random: ChaCha12Rng::seed_from_u64(0),
                limit: None,
                sync_delay: Duration::ZERO,
                hung: false,
                toll: Toll::default(),
            }),
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something that changes nothing, asked through mount `life`.
    pub fn look<T>(&self, life: u64, ask: impl FnOnce(&mut State) -> Result<T, Errno>) -> Result<T, Errno> {
        let mut state = self.ready(life)?;
        ask(&mut state)
    }

    /// Something that changes the disk, asked through mount `life`. The power may go right before or right after it.
    pub fn change<T>(&self, life: u64, change: impl FnOnce(&mut State) -> Result<T, Errno>) -> Result<T, Errno> {
        let mut state = self.ready(life)?;
        state.operations += 1;
        if state.cut_at == Some(state.operations) {
            if state.random.random() {
                change(&mut state).ok();
            }
            state.cut();
            return Err(Errno::EIO);
        }
        change(&mut state)
    }

    fn ready(&self, life: u64) -> Result<MutexGuard<'_, State>, Errno> {
        let waiting = self.released.wait_while(self.lock(), |state| state.hung && state.life == life);
        let state = waiting.unwrap_or_else(PoisonError::into_inner);
        if state.dark || state.life != life { Err(Errno::EIO) } else { Ok(state) }
    }

    pub fn cut_now(&self, seed: u64) {
        let mut state = self.lock();
        if !state.dark {
            state.random = ChaCha12Rng::seed_from_u64(seed);
            state.cut();
        }
        self.released.notify_all();
    }

    pub fn cut_after(&self, operations: u64, seed: u64) {
        let mut state = self.lock();
        state.random = ChaCha12Rng::seed_from_u64(seed);
        state.cut_at = Some(state.operations + operations.max(1));
    }

    pub fn is_dark(&self) -> bool {
        self.lock().dark
    }

    /// Power is back: a new mount's number.
    pub fn revive(&self) -> u64 {
        let mut state = self.lock();
        state.life += 1;
        (state.dark, state.hung, state.cut_at) = (false, false, None);
        for node in state.nodes.values_mut() {
            node.open = 0;
        }
        state.sweep();
        self.released.notify_all();
        state.life
    }

    pub fn hang(&self, hung: bool) {
        self.lock().hung = hung;
        self.released.notify_all();
    }

    pub fn fail_sync(&self, nth: u64) {
        let mut state = self.lock();
        state.fail_sync_at = Some(state.syncs + nth.max(1));
    }

    pub fn leave_out(&self, unsynced: Unsynced) {
        self.lock().unsynced = unsynced;
    }

    pub fn limit(&self, bytes: Option<u64>) {
        self.lock().limit = bytes;
    }

    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    pub fn syncs(&self) -> u64 {
        self.lock().syncs
    }

    pub fn toll(&self) -> Toll {
        self.lock().toll
    }
}

impl Node {
    pub fn new(kind: FileType, mode: u16, owner: (u32, u32)) -> Self {
        Self { kind, mode, owner, changed: SystemTime::now(), contents: Contents::default(), open: 0 }
    }

    fn attributes(&self, number: u64, names: u32) -> FileAttr {
        FileAttr {
            ino: INodeNo(number),
            size: self.contents.bytes(),
            blocks: self.contents.pages() * (PAGE as u64 / 512),
            atime: self.changed,
            mtime: self.changed,
            ctime: self.changed,
            crtime: self.changed,
            kind: self.kind,
            perm: self.mode,
            nlink: if self.kind == FileType::Directory { 2 } else { names },
            uid: self.owner.0,
            gid: self.owner.1,
            rdev: 0,
            blksize: PAGE as u32,
            flags: 0,
        }
    }
}

impl State {
    pub fn node(&mut self, number: u64) -> Result<&mut Node, Errno> {
        self.nodes.get_mut(&number).ok_or(Errno::ENOENT)
    }

    /// What the kernel is told of a file. It counts names itself from then on, and links nothing to a file that has none.
    pub fn attributes(&mut self, number: u64) -> Result<FileAttr, Errno> {
        let names = self.names.count_of(number);
        Ok(self.node(number)?.attributes(number, names))
    }

    pub fn find(&self, folder: u64, name: &OsStr) -> Result<u64, Errno> {
        self.names.find(folder, name).ok_or(Errno::ENOENT)
    }

    pub fn add(&mut self, folder: u64, name: &OsStr, node: Node) -> Result<u64, Errno> {
        if self.names.find(folder, name).is_some() {
            return Err(Errno::EEXIST);
        }
        self.names.list(folder).ok_or(Errno::ENOENT)?;
        let number = self.next;
        self.next += 1;
        if node.kind == FileType::Directory {
            self.names.add_folder(number);
        }
        self.nodes.insert(number, node);
        self.names.put(folder, name, number);
        Ok(number)
    }

    pub fn remove(&mut self, folder: u64, name: &OsStr, is_folder: bool) -> Result<(), Errno> {
        let number = self.find(folder, name)?;
        match (is_folder, self.names.list(number)) {
            (true, None) => return Err(Errno::ENOTDIR),
            (true, Some(names)) if !names.is_empty() => return Err(Errno::ENOTEMPTY),
            (false, Some(_)) => return Err(Errno::EISDIR),
            _ => {}
        }
        self.names.take(folder, name);
        Ok(())
    }

    pub fn write(&mut self, number: u64, offset: u64, data: &[u8]) -> Result<(), Errno> {
        let more = self.node(number)?.contents.new_pages(offset, data.len());
        if more > self.free_pages() {
            return Err(Errno::ENOSPC);
        }
        let node = self.node(number)?;
        node.contents.write(offset, data);
        node.changed = SystemTime::now();
        Ok(())
    }

    pub fn resize(&mut self, number: u64, bytes: u64) -> Result<(), Errno> {
        let node = self.node(number)?;
        node.contents.resize(bytes);
        node.changed = SystemTime::now();
        Ok(())
    }

    pub fn opened(&mut self, number: u64) -> Result<(), Errno> {
        self.node(number)?.open += 1;
        Ok(())
    }

    pub fn closed(&mut self, number: u64) {
        if let Some(node) = self.nodes.get_mut(&number) {
            node.open = node.open.saturating_sub(1);
        }
    }

    /// Makes a file's data, or a folder's names, durable; or fails as asked.
    pub fn sync(&mut self, number: u64) -> Result<(), Errno> {
        self.syncs += 1;
        if self.leaves_out(number) {
            return Ok(());
        }
        let fails = self.fail_sync_at == Some(self.syncs);
        let node = self.nodes.get_mut(&number).ok_or(Errno::ENOENT)?;
        match (node.kind, fails) {
            (FileType::Directory, false) => self.names.sync(number),
            (FileType::Directory, true) => self.names.fail_sync(number),
            (_, false) => node.contents.sync(),
            (_, true) => node.contents.fail_sync(),
        }
        if node_is_folder(&self.nodes, number) {
            self.sweep();
        }
        if fails { Err(Errno::EIO) } else { Ok(()) }
    }

    fn leaves_out(&self, number: u64) -> bool {
        match &self.unsynced {
            Unsynced::Nothing => false,
            Unsynced::Files(part) => {
                !node_is_folder(&self.nodes, number)
                    && self.names.name_of(number).is_some_and(|name| name.to_string_lossy().contains(part.as_str()))
            }
            Unsynced::Folders => node_is_folder(&self.nodes, number),
        }
    }

    /// The power goes.
    fn cut(&mut self) {
        // One chance for the whole cut, so that some lose all that was not synced, some nothing, and most a part.
        let keep = [0.0, 0.3, 0.7, 1.0][self.random.random_range(0..4)];
        for node in self.nodes.values_mut() {
            let loss = node.contents.cut(keep, &mut self.random);
            self.toll.pages_dropped += loss.dropped;
            self.toll.pages_torn += loss.torn;
            self.toll.pages_kept += loss.kept;
        }
        let (kept, dropped) = self.names.cut(keep, &mut self.random);
        self.toll.names_kept += kept;
        self.toll.names_dropped += dropped;
        (self.dark, self.cut_at, self.fail_sync_at) = (true, None, None);
    }

    /// Forgets what no name, and nobody who has it open, leads to.
    fn sweep(&mut self) {
        let mut kept: BTreeSet<u64> = self.names.referenced();
        kept.insert(ROOT);
        kept.extend(self.nodes.iter().filter(|(_, node)| node.open > 0).map(|(&number, _)| number));
        self.nodes.retain(|number, _| kept.contains(number));
        self.names.retain(&kept);
    }

    fn used_pages(&self) -> u64 {
        self.nodes.values().map(|node| node.contents.pages()).sum()
    }

    /// (all, free) pages.
    pub fn room(&self) -> (u64, u64) {
        (self.limit.unwrap_or(NOMINAL_BYTES) / PAGE as u64, self.free_pages())
    }

    fn free_pages(&self) -> u64 {
        (self.limit.unwrap_or(NOMINAL_BYTES) / PAGE as u64).saturating_sub(self.used_pages())
    }
}

fn node_is_folder(nodes: &BTreeMap<u64, Node>, number: u64) -> bool {
    nodes.get(&number).is_some_and(|node| node.kind == FileType::Directory)
}
