//! A disk image as a readable run of guest bytes.
//!
//! [`Source`] opens an [`Image`] read-only: a raw file or block device as it is, a qcow2 file with everything that it
//! is based on. It reads what is there now; that this is one instant is the freeze's business. An image that is
//! missing, truncated or something else is refused with its path. Everything here blocks.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use imago::qcow2::Qcow2;
use imago::{FormatAccess, FormatDriverBuilder, Mapping, PermissiveImplicitOpenGate, Storage};
use landfall_proto::Refusal;
use landfall_proto::refusal::{Class, quoted};

use super::durable::fault;
use super::qcow2;
use super::skip::FileStamp;
use super::tree;
use super::wait::wait;
use crate::vm_service::{Image, ImageFormat};

/// How the bytes from an offset on are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Whether they are zeroes that need not be read.
    pub hole: bool,
    /// How far that goes, at least 1.
    pub length: u64,
}

/// Something with the bytes of a disk: an image, or a point of a replica. Everything blocks.
pub trait Readable: Sync {
    /// The size of the disk.
    fn bytes(&self) -> u64;
    /// How the bytes from `offset` on are stored, up to `max` of them; `offset` is within the disk, `max` at least 1.
    fn run_at(&self, offset: u64, max: u64) -> Result<Run, Refusal>;
    /// Fills `buffer` from `offset` on, which is within the disk with all of it.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Refusal>;
}

/// A disk image, open for reading.
pub struct Source {
    path: PathBuf,
    bytes: u64,
    form: Form,
}

enum Form {
    Raw { file: File, sparse: bool },
    Qcow2(Box<Layers>),
}

impl Source {
    /// Opens `image`. Its size must be what the VM service reported.
    pub fn open(image: &Image) -> Result<Self, Refusal> {
        tree::check_size(&image.target, image.bytes)?;
        let form = match image.format {
            ImageFormat::Raw => open_raw(&image.path, image.bytes)?,
            ImageFormat::Qcow2 => {
                let layers = Layers::open(&image.path)?;
                if layers.bytes() != image.bytes {
                    return Err(resized(&image.path, layers.bytes(), image.bytes));
                }
                Form::Qcow2(Box::new(layers))
            }
        };
        Ok(Self { path: image.path.clone(), bytes: image.bytes, form })
    }

    /// The file's stamp for [`super::may_skip`]; `None` where the disk is more than one regular file.
    pub fn stamp(&self) -> Result<Option<FileStamp>, Refusal> {
        match &self.form {
            Form::Qcow2(layers) if layers.files > 1 => Ok(None),
            _ => FileStamp::of(&self.path),
        }
    }
}

fn resized(path: &Path, found: u64, wanted: u64) -> Refusal {
    let shown = quoted(&path.to_string_lossy());
    let why = if found < wanted { "is truncated: it" } else { "was resized: it" };
    Refusal::new(Class::Failed, "image_size", format!("{shown} {why} has {found} bytes of disk instead of {wanted}"))
        .field("path")
        .remedy("restore the image where it is damaged; where it was resized on purpose, the next list of VMs has it")
}

fn open_raw(path: &Path, bytes: u64) -> Result<Form, Refusal> {
    let mut file = File::open(path).map_err(|error| fault("open", path, &error))?;
    let meta = file.metadata().map_err(|error| fault("look at", path, &error))?;
    if meta.is_dir() {
        return Err(fault("open", path, &io::Error::other("it is a folder, not a disk image")));
    }
    // A block device has no length of its own; its end is where seeking gets to.
    let found = file.seek(SeekFrom::End(0)).map_err(|error| fault("look at", path, &error))?;
    if found != bytes {
        return Err(resized(path, found, bytes));
    }
    // Advice only: a file system that cannot take it reads as well.
    let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Sequential);
    Ok(Form::Raw { file, sparse: meta.is_file() })
}

fn raw_run(file: &File, path: &Path, offset: u64, max: u64) -> Result<Run, Refusal> {
    use rustix::fs::{SeekFrom as From, seek};
    let failed = |error: rustix::io::Errno| fault("read", path, &error.into());
    match seek(file, From::Data(offset)) {
        Ok(data) if data > offset => Ok(Run { hole: true, length: (data - offset).min(max) }),
        Ok(_) => {
            let hole = seek(file, From::Hole(offset)).map_err(failed)?;
            Ok(Run { hole: false, length: hole.saturating_sub(offset).clamp(1, max) })
        }
        Err(rustix::io::Errno::NXIO) => Ok(Run { hole: true, length: max }),
        // The file system cannot tell: then everything is data.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => Ok(Run { hole: false, length: max }),
        Err(error) => Err(failed(error)),
    }
}

impl Readable for Source {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn run_at(&self, offset: u64, max: u64) -> Result<Run, Refusal> {
        match &self.form {
            Form::Raw { file, sparse: true } => raw_run(file, &self.path, offset, max),
            Form::Raw { sparse: false, .. } => Ok(Run { hole: false, length: max }),
            Form::Qcow2(layers) => layers.run_at(offset, max),
        }
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Refusal> {
        match &self.form {
            Form::Qcow2(layers) => layers.read_at(offset, buffer),
            Form::Raw { file, .. } => file.read_exact_at(buffer, offset).map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => resized(&self.path, offset, self.bytes),
                _ => fault("read", &self.path, &error),
            }),
        }
    }
}

/// A qcow2 image with everything that it is based on, open for reading.
pub struct Layers {
    path: PathBuf,
    image: FormatAccess<imago::file::File>,
    /// The qcow2 files, top first, each with the size of its clusters.
    clusters: Vec<(PathBuf, u64)>,
    files: usize,
}

impl Layers {
    /// Opens the image at `path`; refuses what is missing, truncated or no qcow2 image.
    pub fn open(path: &Path) -> Result<Self, Refusal> {
        let (layers, raw) = qcow2::chain(path)?;
        let image =
            wait(Box::pin(Qcow2::<imago::file::File>::builder_path(path).open(PermissiveImplicitOpenGate::default())))
                .map_err(|error| fault("open", path, &error))?;
        let files = layers.len() + usize::from(raw.is_some());
        let clusters = layers.into_iter().map(|layer| (layer.path, layer.cluster_bytes)).collect();
        Ok(Self { path: path.to_owned(), image: FormatAccess::new(image), clusters, files })
    }

    /// The size of the clusters of the file at `path`; of the largest there are where it is none of these by that name.
    fn cluster_bytes(&self, path: Option<&Path>) -> u64 {
        let own = self.clusters.iter().find(|(layer, _)| Some(layer.as_path()) == path).map(|(_, bytes)| *bytes);
        own.or_else(|| self.clusters.iter().map(|(_, bytes)| *bytes).max()).unwrap_or(tree::LEAF_BYTES)
    }

    fn truncated(&self, offset: u64, found: u64) -> Refusal {
        let shown = quoted(&self.path.to_string_lossy());
        let message = format!("{shown} or a file below it is truncated: data of disk offset {offset} is past {found}");
        Refusal::new(Class::Failed, "bad_image", message)
            .field("path")
            .remedy("check it with `qemu-img check`, and restore it from a backup where it is damaged")
    }
}

impl Readable for Layers {
    fn bytes(&self) -> u64 {
        self.image.size()
    }

    fn run_at(&self, offset: u64, max: u64) -> Result<Run, Refusal> {
        let (mapping, length) = wait(Box::pin(self.image.get_mapping(offset, max)))
            .map_err(|error| fault("read the tables of", &self.path, &error))?;
        let hole = match mapping {
            Mapping::Zero { .. } => true,
            Mapping::Raw { storage, offset: at, .. } => {
                let found = storage.size().map_err(|error| fault("look at", &self.path, &error))?;
                // The last cluster of a file may end early; what was cut off further in is missing data.
                let end = at.saturating_add(length);
                if end > found && end > found.next_multiple_of(self.cluster_bytes(storage.get_filename().as_deref())) {
                    return Err(self.truncated(offset, found));
                }
                false
            }
            Mapping::Eof { .. } => return Err(self.truncated(offset, self.image.size())),
            _ => false,
        };
        if length == 0 {
            return Err(self.truncated(offset, self.image.size()));
        }
        Ok(Run { hole, length: length.min(max) })
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Refusal> {
        wait(Box::pin(self.image.read(buffer, offset))).map_err(|error| fault("read", &self.path, &error))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::process::Command;

    use super::*;
    use crate::drive::image::test_disk::{random_bytes, whole, with_qemu_img};

    fn image(path: &Path, format: ImageFormat, bytes: u64) -> Image {
        Image { target: "vda".parse().unwrap(), path: path.to_owned(), format, bytes }
    }

    #[test]
    fn a_sparse_raw_file_shows_its_holes_and_all_its_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.raw");
        let file = OpenOptions::new().create(true).truncate(true).write(true).open(&path).unwrap();
        file.set_len(4 << 20).unwrap();
        file.write_all_at(&random_bytes(65_536, 1), 1 << 20).unwrap();
        let source = Source::open(&image(&path, ImageFormat::Raw, 4 << 20)).unwrap();
        assert!(source.run_at(0, 4 << 20).unwrap().hole);
        assert!(!source.run_at(1 << 20, 4 << 20).unwrap().hole);
        assert_eq!(source.run_at(3 << 20, 1 << 20).unwrap(), Run { hole: true, length: 1 << 20 });
        assert_eq!(whole(&source), std::fs::read(&path).unwrap());
    }

    #[test]
    fn missing_truncated_and_foreign_images_are_refused_with_their_path_and_a_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let none = folder.path().join("none.raw");
        let short = folder.path().join("short.raw");
        std::fs::write(&short, vec![1; 65_536]).unwrap();
        for (path, format, bytes, code) in [
            (&none, ImageFormat::Raw, 65_536, "missing_file"),
            (&none, ImageFormat::Qcow2, 65_536, "missing_file"),
            (&short, ImageFormat::Raw, 131_072, "image_size"),
            (&short, ImageFormat::Qcow2, 65_536, "bad_image"),
            (&folder.path().to_owned(), ImageFormat::Raw, 65_536, "io_error"),
        ] {
            let refusal = Source::open(&image(path, format, bytes)).err().unwrap();
            assert_eq!(refusal.code, code, "{refusal}");
            assert!(refusal.message.contains(path.to_str().unwrap()) && refusal.remedy.is_some(), "{refusal}");
        }
    }

    #[test]
    fn a_qcow2_image_over_a_backing_file_reads_as_qemu_reads_it_and_is_refused_when_cut() {
        with_qemu_img("qcow2 sources", |qemu_img| {
            let folder = tempfile::tempdir().unwrap();
            let (raw, base, top) = ("base.raw", "base.qcow2", "top.qcow2");
            let content = random_bytes(3 << 20, 5);
            std::fs::write(folder.path().join(raw), &content).unwrap();
            let run = |args: &[&str]| {
                let output = Command::new(qemu_img).current_dir(folder.path()).args(args).output().unwrap();
                assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
            };
            run(&["convert", "-f", "raw", "-O", "qcow2", raw, base]);
            run(&["create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", top, "4M"]);
            let source = Source::open(&image(&folder.path().join(top), ImageFormat::Qcow2, 4 << 20)).unwrap();
            let mut expected = content.clone();
            expected.resize(4 << 20, 0);
            assert_eq!(whole(&source), expected);
            assert_eq!(source.stamp().unwrap(), None);

            let whole_base = folder.path().join(base);
            let length = std::fs::metadata(&whole_base).unwrap().len();
            let single = Source::open(&image(&whole_base, ImageFormat::Qcow2, 3 << 20)).unwrap();
            assert!(single.stamp().unwrap().is_some());
            for cut in [length / 2, length / 3, 200_000, 1000, 50] {
                OpenOptions::new().write(true).open(&whole_base).unwrap().set_len(cut).unwrap();
                let opened = Source::open(&image(&whole_base, ImageFormat::Qcow2, 3 << 20));
                let refusal = opened.and_then(|source| scan_all(&source)).unwrap_err();
                assert_eq!(refusal.code, "bad_image", "cut to {cut}: {refusal}");
            }
        });
    }

    fn scan_all(source: &Source) -> Result<(), Refusal> {
        let mut at = 0;
        while at < source.bytes() {
            at += source.run_at(at, source.bytes() - at)?.length;
        }
        Ok(())
    }
}
