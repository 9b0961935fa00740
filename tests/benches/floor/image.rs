//! An image read, hashed and written again, synced at the end: what a replica costs without a network.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// How much is read at a time.
pub const PIECE: usize = 1 << 20;

/// An image of a bench, on disk for as long as this lives.
pub struct Image {
    folder: tempfile::TempDir,
    bytes: u64,
}

impl Image {
    /// The image's file.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("source.raw")
    }

    /// Its size.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A file beside it to write to.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// MiB a second, where all of it took since `begun`.
    pub fn rate(&self, begun: Instant) -> f64 {
        self.bytes as f64 / f64::from(1 << 20) / begun.elapsed().as_secs_f64()
    }
}

/// Makes an image of bytes that do not compress. It stays in the page cache: floors and figures read it alike.
pub fn make(bytes: u64) -> Image {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder on disk");
    let image = Image { folder, bytes };
    let mut file = File::create(image.path()).expect("a file");
    let mut stream = blake3::Hasher::new().finalize_xof();
    let mut piece = vec![0; PIECE];
    for _ in 0..bytes.div_ceil(PIECE as u64) {
        stream.fill(&mut piece);
        file.write_all(&piece).expect("room for an image");
    }
    file.set_len(bytes).and_then(|()| file.sync_all()).expect("a sync");
    image
}

/// As [`make`], every other MiB a hole.
pub fn make_half(bytes: u64) -> Image {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder on disk");
    let image = Image { folder, bytes };
    let file = File::create(image.path()).expect("a file");
    let mut stream = blake3::Hasher::new().finalize_xof();
    let mut piece = vec![0; PIECE];
    for offset in (0..bytes).step_by(2 * PIECE) {
        stream.fill(&mut piece);
        file.write_all_at(&piece, offset).expect("room for an image");
    }
    file.set_len(bytes).and_then(|()| file.sync_all()).expect("a sync");
    image
}

/// Copies it once; returns MiB a second.
pub fn measure(image: &Image) -> f64 {
    let target = image.beside("copied.raw");
    let begun = Instant::now();
    copy(&image.path(), &target);
    let rate = image.rate(begun);
    std::fs::remove_file(target).ok();
    rate
}

fn copy(source: &Path, target: &Path) {
    let (mut source, mut target) = (File::open(source).expect("an image"), File::create(target).expect("a file"));
    let (mut hasher, mut piece) = (blake3::Hasher::new(), vec![0; PIECE]);
    loop {
        match source.read(&mut piece).expect("an image") {
            0 => break,
            len => {
                hasher.update(&piece[..len]);
                target.write_all(&piece[..len]).expect("room for an image");
            }
        }
    }
    std::hint::black_box(hasher.finalize());
    target.sync_data().expect("a sync");
}
