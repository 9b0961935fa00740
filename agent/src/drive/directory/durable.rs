//! Files that are there whole or not at all, also after a power cut.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Replaces `path` with `bytes`: written beside it, synced, renamed, the folder synced.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace_whole(path, bytes)?;
    sync_folder(path.parent().unwrap_or(Path::new("/")))
}

/// Replaces `path` with `bytes`, whole after a power cut, but then perhaps still with what it was before: for what is
/// written again by whoever wrote it first.
pub(super) fn replace_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = fresh(path);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    std::fs::rename(&fresh, path)
}

fn fresh(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.new"))
}

/// Makes creations, renames and removals in `folder` durable.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Creates `folder` and what is above it, closed to other users, unless it is there; a power cut may take it away again.
pub(super) fn make_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// As [`make_folder`], durably.
pub(super) fn create_folder(folder: &Path) -> io::Result<()> {
    make_folder(folder)?;
    folder.parent().map_or(Ok(()), sync_folder)
}

/// The content of `path`, refused past `most` bytes; `None` where there is no such file.
pub(super) fn read(path: &Path, most: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("more than {most} bytes")));
    }
    Ok(Some(bytes))
}
