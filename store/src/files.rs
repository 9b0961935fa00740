//! Small files that are whole or not there: keys, certificates, marks.
//!
//! A name is relative to the folder that the store of files was made for, and cannot leave it. Everything is
//! synchronous: these files are a few kilobytes and are written a few times in a node's life.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::limits;

/// What only the agent may read: keys.
pub const SECRET: u32 = 0o600;
/// What everyone may read: certificates.
pub const PUBLIC: u32 = 0o644;

/// What ends the name of a file that is being written.
const UNFINISHED: &str = ".unfinished";

/// A folder of small files.
pub trait Files: Send + Sync + fmt::Debug {
    /// The content of `name`, or `None` where there is no such file.
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>>;

    /// Replaces `name` as a whole, with these permissions; when this returns it survives a power cut.
    fn write(&self, name: &str, content: &[u8], mode: u32) -> io::Result<()>;

    /// Removes `name` durably; `false` where there was none.
    fn remove(&self, name: &str) -> io::Result<bool>;

    /// The names of the files directly in `folder` (`""` is the top), in order.
    fn list(&self, folder: &str) -> io::Result<Vec<String>>;
}

fn checked(name: &str) -> io::Result<&Path> {
    let path = Path::new(name);
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    if name.is_empty() || !plain || name.ends_with('/') || name.ends_with(UNFINISHED) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("'{}' is not a plain name", name.escape_debug()),
        ));
    }
    Ok(path)
}

/// Files on disk, below one folder.
#[derive(Clone, Debug)]
pub struct DiskFiles {
    root: PathBuf,
}

impl DiskFiles {
    /// Files below `root`, which is made (0700) where it is missing.
    pub fn open(root: &Path) -> io::Result<Self> {
        make_folder(root)?;
        Ok(Self { root: root.to_owned() })
    }

    fn folder(&self, name: &str) -> io::Result<PathBuf> {
        if name.is_empty() { Ok(self.root.clone()) } else { Ok(self.root.join(checked(name)?)) }
    }
}

/// Makes `folder` and what is missing above it, private to the agent, and syncs each folder that got an entry.
fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make_folder(parent)?;
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    File::open(parent)?.sync_all()
}

impl Files for DiskFiles {
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let file = match File::open(self.root.join(checked(name)?)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let mut content = Vec::new();
        file.take(limits::FILE_BYTES + 1).read_to_end(&mut content)?;
        if content.len() as u64 > limits::FILE_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("{name} is above {} bytes", limits::FILE_BYTES),
            ));
        }
        Ok(Some(content))
    }

    fn write(&self, name: &str, content: &[u8], mode: u32) -> io::Result<()> {
        if content.len() as u64 > limits::FILE_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("{name} is above {} bytes", limits::FILE_BYTES),
            ));
        }
        let path = self.root.join(checked(name)?);
        let folder = path.parent().unwrap_or(&self.root);
        make_folder(folder)?;
        let mut unfinished = path.clone().into_os_string();
        unfinished.push(UNFINISHED);
        // A left-over of a killed writer may have wider permissions than wanted now.
        match fs::remove_file(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&unfinished)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&unfinished, &path)?;
        File::open(folder)?.sync_all()
    }

    fn remove(&self, name: &str) -> io::Result<bool> {
        let path = self.root.join(checked(name)?);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other?,
        }
        File::open(path.parent().unwrap_or(&self.root))?.sync_all()?;
        Ok(true)
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.folder(folder)?) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type()?.is_file() && !name.ends_with(UNFINISHED) {
                names.push(name);
            }
            if names.len() > limits::FILES_LISTED {
                let text = format!("'{folder}' has more than {} files", limits::FILES_LISTED);
                return Err(io::Error::other(text));
            }
        }
        names.sort();
        Ok(names)
    }
}

/// Files in memory: every write is durable at once. Clones are handles on the same files.
#[derive(Clone, Debug, Default)]
pub struct MemoryFiles {
    files: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
}

impl MemoryFiles {
    /// No files.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Files for MemoryFiles {
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        checked(name)?;
        Ok(self.lock().get(name).cloned())
    }

    fn write(&self, name: &str, content: &[u8], _mode: u32) -> io::Result<()> {
        checked(name)?;
        self.lock().insert(name.to_owned(), content.to_owned());
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<bool> {
        checked(name)?;
        Ok(self.lock().remove(name).is_some())
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let prefix = if folder.is_empty() { String::new() } else { format!("{}/", checked(folder)?.display()) };
        let files = self.lock();
        let below = files.keys().filter_map(|name| name.strip_prefix(&prefix));
        Ok(below.filter(|rest| !rest.contains('/')).map(str::to_owned).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(test: impl Fn(&dyn Files)) {
        let folder = tempfile::tempdir().unwrap();
        test(&DiskFiles::open(&folder.path().join("a/b")).unwrap());
        test(&MemoryFiles::new());
    }

    #[test]
    fn what_is_written_is_read_listed_and_removed() {
        both(|files| {
            assert_eq!(files.read("node.key").unwrap(), None);
            files.write("node.key", b"one", SECRET).unwrap();
            files.write("node.key", b"two", SECRET).unwrap();
            files.write("certificates/node.der", b"three", PUBLIC).unwrap();
            assert_eq!(files.read("node.key").unwrap(), Some(b"two".to_vec()));
            assert_eq!(files.list("").unwrap(), ["node.key"]);
            assert_eq!(files.list("certificates").unwrap(), ["node.der"]);
            assert_eq!(files.list("nowhere").unwrap(), [""; 0]);
            assert!(files.remove("node.key").unwrap());
            assert!(!files.remove("node.key").unwrap());
        });
    }

    #[test]
    fn a_name_cannot_leave_the_folder() {
        both(|files| {
            for bad in ["", "..", "../x", "/etc/passwd", "a/../../x", "a/", "./a"] {
                assert!(files.write(bad, b"", PUBLIC).is_err(), "{bad:?}");
                assert!(files.read(bad).is_err(), "{bad:?}");
            }
        });
    }

    #[test]
    fn a_secret_is_never_readable_by_others_even_after_a_left_over() {
        let folder = tempfile::tempdir().unwrap();
        let files = DiskFiles::open(folder.path()).unwrap();
        fs::write(folder.path().join("k.unfinished"), b"half").unwrap();
        files.write("k", b"secret", SECRET).unwrap();
        let mode = fs::metadata(folder.path().join("k")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(files.list("").unwrap(), ["k"]);
    }
}
