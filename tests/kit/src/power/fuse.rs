//! The disk as the kernel asks for it: one answer per request.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use super::disk::{Disk, Node, State};
use super::pages::PAGE;

/// How long the kernel may remember names and attributes: nobody but it changes them.
const REMEMBER: Duration = Duration::from_secs(60);
// The modes of fallocate(2) that are understood.
const KEEP_SIZE: i32 = 1;
const PUNCH_HOLE: i32 = 2;
const ZERO_RANGE: i32 = 16;

/// One mount of a disk: what it is asked after the next one is made is an error.
pub(super) struct Mounted {
    disk: Arc<Disk>,
    life: u64,
}

impl Mounted {
    /// Powers the disk on.
    pub fn new(disk: Arc<Disk>) -> Self {
        let life = disk.revive();
        Self { disk, life }
    }

    fn make(&self, folder: u64, name: &OsStr, node: Node) -> Result<FileAttr, Errno> {
        self.disk.change(self.life, |state| {
            let number = state.add(folder, name, node)?;
            state.attributes(number)
        })
    }

    fn sync(&self, number: u64) -> Result<(), Errno> {
        let delay = self.disk.lock().sync_delay;
        if !delay.is_zero() {
            std::thread::sleep(delay);
        }
        self.disk.change(self.life, |state| state.sync(number))
    }
}

fn entry(reply: ReplyEntry, result: Result<FileAttr, Errno>) {
    match result {
        Ok(attributes) => reply.entry(&REMEMBER, &attributes, Generation(0)),
        Err(fault) => reply.error(fault),
    }
}

fn attributes(reply: ReplyAttr, result: Result<FileAttr, Errno>) {
    match result {
        Ok(attributes) => reply.attr(&REMEMBER, &attributes),
        Err(fault) => reply.error(fault),
    }
}

fn empty(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(fault) => reply.error(fault),
    }
}

fn kind_of(mode: u32) -> Result<FileType, Errno> {
    match mode & 0o170_000 {
        0 | 0o100_000 => Ok(FileType::RegularFile),
        0o140_000 => Ok(FileType::Socket),
        0o010_000 => Ok(FileType::NamedPipe),
        _ => Err(Errno::EPERM),
    }
}

impl Filesystem for Mounted {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.disk.look(self.life, |state| {
            let number = state.find(parent.0, name)?;
            state.attributes(number)
        });
        entry(reply, found);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        attributes(reply, self.disk.look(self.life, |state| state.attributes(ino.0)));
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = self.disk.change(self.life, |state| {
            if let Some(bytes) = size {
                state.resize(ino.0, bytes)?;
            }
            let node = state.node(ino.0)?;
            node.mode = mode.map_or(node.mode, |mode| (mode & 0o7777) as u16);
            node.owner = (uid.unwrap_or(node.owner.0), gid.unwrap_or(node.owner.1));
            match mtime {
                Some(TimeOrNow::SpecificTime(time)) => node.changed = time,
                Some(TimeOrNow::Now) => node.changed = SystemTime::now(),
                None => {}
            }
            state.attributes(ino.0)
        });
        attributes(reply, set);
    }

    fn mknod(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, _: u32, reply: ReplyEntry) {
        let node = kind_of(mode).map(|kind| Node::new(kind, (mode & 0o7777) as u16, (req.uid(), req.gid())));
        entry(reply, node.and_then(|node| self.make(parent.0, name, node)));
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, reply: ReplyEntry) {
        let node = Node::new(FileType::Directory, (mode & 0o7777) as u16, (req.uid(), req.gid()));
        entry(reply, self.make(parent.0, name, node));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(reply, self.disk.change(self.life, |state| state.remove(parent.0, name, false)));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(reply, self.disk.change(self.life, |state| state.remove(parent.0, name, true)));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let renamed = self.disk.change(self.life, |state| {
            let file = state.find(parent.0, name)?;
            match state.names.find(newparent.0, newname) {
                Some(other) if flags == RenameFlags::RENAME_EXCHANGE => {
                    state.names.swap((parent.0, name), (newparent.0, newname), (file, other));
                    return Ok(());
                }
                None if flags == RenameFlags::RENAME_EXCHANGE => return Err(Errno::ENOENT),
                _ if !(flags - RenameFlags::RENAME_NOREPLACE).is_empty() => return Err(Errno::EINVAL),
                Some(_) if flags.contains(RenameFlags::RENAME_NOREPLACE) => return Err(Errno::EEXIST),
                Some(other) if other == file => return Ok(()),
                Some(other) => match state.names.list(other) {
                    Some(names) if !names.is_empty() => return Err(Errno::ENOTEMPTY),
                    _ => {}
                },
                None => {}
            }
            state.names.rename(parent.0, name, newparent.0, newname, file);
            Ok(())
        });
        empty(reply, renamed);
    }

    fn link(&self, _: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let linked = self.disk.change(self.life, |state| {
            if state.names.find(newparent.0, newname).is_some() {
                return Err(Errno::EEXIST);
            }
            state.names.put(newparent.0, newname, ino.0);
            state.attributes(ino.0)
        });
        entry(reply, linked);
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.disk.look(self.life, |state| state.opened(ino.0)) {
            Ok(()) => reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE),
            Err(fault) => reply.error(fault),
        }
    }

    fn create(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, _: i32, reply: ReplyCreate) {
        let node = Node::new(FileType::RegularFile, (mode & 0o7777) as u16, (req.uid(), req.gid()));
        let made = self.make(parent.0, name, node).and_then(|attributes| {
            self.disk.look(self.life, |state| state.opened(attributes.ino.0))?;
            Ok(attributes)
        });
        match made {
            Ok(attributes) => {
                reply.created(&REMEMBER, &attributes, Generation(0), FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
            }
            Err(fault) => reply.error(fault),
        }
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        // A file of an older mount is none of the disk's business any more.
        let closed = |state: &mut State| {
            state.closed(ino.0);
            Ok(())
        };
        self.disk.look(self.life, closed).ok();
        reply.ok();
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.disk.look(self.life, |state| Ok(state.node(ino.0)?.contents.read(offset, size as usize))) {
            Ok(data) => reply.data(&data),
            Err(fault) => reply.error(fault),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.disk.change(self.life, |state| state.write(ino.0, offset, data)) {
            Ok(()) => reply.written(data.len() as u32),
            Err(fault) => reply.error(fault),
        }
    }

    /// Closing a file saves nothing.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // "Not known": the kernel never asks again. Else a process that is killed while it serves its own disk waits for
        // ever, at its end, for its own answer to the closing of a file.
        reply.error(Errno::ENOSYS);
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        empty(reply, self.sync(ino.0));
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        empty(reply, self.sync(ino.0));
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let listed = self.disk.look(self.life, |state| {
            let names = state.names.list(ino.0).ok_or(Errno::ENOTDIR)?;
            let dots = [".", ".."].map(|name| (name.into(), ino.0, FileType::Directory));
            let kind = |number: &u64| state.nodes.get(number).map_or(FileType::RegularFile, |node| node.kind);
            let named = names.iter().map(|(name, number)| (name.clone(), *number, kind(number)));
            Ok(dots.into_iter().chain(named).collect::<Vec<_>>())
        });
        match listed {
            Ok(entries) => {
                for (index, (name, number, kind)) in entries.into_iter().enumerate().skip(offset as usize) {
                    if reply.add(INodeNo(number), index as u64 + 1, kind, name) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(fault) => reply.error(fault),
        }
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        match self.disk.look(self.life, |state| Ok(state.room())) {
            Ok((all, free)) => reply.statfs(all, free, free, 1 << 20, 1 << 20, PAGE as u32, 255, PAGE as u32),
            Err(fault) => reply.error(fault),
        }
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let done = self.disk.change(self.life, |state| {
            if mode & !(KEEP_SIZE | PUNCH_HOLE | ZERO_RANGE) != 0 {
                return Err(Errno::EOPNOTSUPP);
            }
            let contents = &mut state.node(ino.0)?.contents;
            if mode & (PUNCH_HOLE | ZERO_RANGE) != 0 {
                contents.zero(offset, length);
            }
            if mode & KEEP_SIZE == 0 && contents.bytes() < offset + length {
                contents.resize(offset + length);
            }
            Ok(())
        });
        empty(reply, done);
    }
}
