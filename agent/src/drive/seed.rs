//! Seeds: the disks of a VM at one instant as files, to be carried to the node that receives its replica.
//!
//! ```text
//!   DIR/vda.raw      the disk byte for byte, sparse where it is zero
//!   DIR/seed         what they are: written last, so that a folder without it is no seed
//! ```
//!
//! The disks are copied while the VM runs; then it stands still for a scan, as for every change set, and what has changed
//! since is written over. What is imported is no recovery point: the first session compares it, and sends what differs.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use landfall_proto::id::{DiskTarget, Root, UnixMillis, VmId};
use landfall_proto::message::data::{Content, Extent};
use landfall_proto::model::DiskSpec;
use landfall_proto::refusal::quoted;
use landfall_proto::seam::Clock;
use landfall_proto::{Class, Refusal};
use serde::{Deserialize, Serialize};

use crate::drive::events::Happening;
use crate::drive::image::durable::{self, fault};
use crate::drive::image::{BLOCK_BYTES, Baseline, HashIndex, IndexWriter, Readable, Source, scan};
use crate::drive::node::Node;
use crate::drive::replica::local::Local;
use crate::drive::replicas::Replicas;
use crate::drive::send::capture::{Standstill, blocking, image_of};
use crate::surface::hex::RootHex;
use crate::vm_service::{Image, ImageFormat, VmRole};

/// The file that says what a seed is.
const NOTE: &str = "seed";
const TITLE: &str = "landfall-seed 1 ";
/// The longest note that is read: 128 disks take a tenth of it.
const NOTE_MAX: u64 = 1 << 20;
/// What is written at once where a disk became zero.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// What a seed is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seed {
    /// The VM.
    pub vm: VmId,
    /// Its name: data only.
    pub name: String,
    /// The instant, by the clock of the node that wrote it.
    pub taken_at: UnixMillis,
    /// Its disks.
    pub disks: Vec<SeedDisk>,
}

/// One disk of a seed, in the file `<target>.raw`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeedDisk {
    /// The disk.
    pub target: DiskTarget,
    /// Its size in bytes.
    pub bytes: u64,
    /// The BLAKE3 hash of the file.
    pub root: RootHex,
}

impl Seed {
    /// The disks as they are told between agents.
    pub fn files(&self) -> Vec<(String, u64, Root)> {
        self.disks.iter().map(|disk| (disk.target.to_string(), disk.bytes, disk.root.0)).collect()
    }

    fn encode(&self) -> Result<Vec<u8>, Refusal> {
        let failed = |error: serde_json::Error| Refusal::new(Class::Failed, "bad_seed", error.to_string());
        let body = serde_json::to_string_pretty(self).map_err(failed)?;
        Ok(format!("{TITLE}{}\n{body}\n", blake3::hash(body.as_bytes()).to_hex()).into_bytes())
    }

    fn load(folder: &Path) -> Result<Self, Refusal> {
        let path = folder.join(NOTE);
        let length = match fs::metadata(&path) {
            Ok(meta) => meta.len(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(bad(folder, "holds no seed")),
            Err(error) => return Err(fault("look at", &path, &error)),
        };
        if length > NOTE_MAX {
            return Err(bad(folder, "holds a note that is too long"));
        }
        let text = fs::read_to_string(&path).map_err(|error| fault("read", &path, &error))?;
        let (title, body) = text.split_once('\n').ok_or_else(|| bad(folder, "holds a damaged note"))?;
        let check = title.strip_prefix(TITLE).ok_or_else(|| bad(folder, "holds a seed of another version"))?;
        let body = body.trim_end_matches('\n');
        if check != blake3::hash(body.as_bytes()).to_hex().as_str() {
            return Err(bad(folder, "holds a damaged note: its checksum does not match"));
        }
        serde_json::from_str(body).map_err(|error| bad(folder, &format!("holds a damaged note: {error}")))
    }
}

fn bad(folder: &Path, why: &str) -> Refusal {
    let message = format!("{} {why}", quoted(&folder.to_string_lossy()));
    Refusal::new(Class::Refused, "bad_seed", message)
        .field("dir")
        .remedy("give the folder that `landfall vm seed export` wrote at the primary, carried whole")
}

fn image_path(folder: &Path, target: &DiskTarget) -> PathBuf {
    folder.join(format!("{target}.raw"))
}

/// Writes a seed of a VM of this node, or takes one for a replica that this node receives.
pub async fn here(node: &Node, replicas: &Replicas, vm: VmId, folder: PathBuf, import: bool) -> Result<Seed, Refusal> {
    if !folder.is_absolute() {
        return Err(Refusal::invalid("dir", &folder.to_string_lossy(), "give an absolute path"));
    }
    let done = match import {
        true => take(node, replicas, vm, folder).await,
        false => write(node, vm, folder).await,
    };
    let seed = done?;
    let what = if import { "is taken: the first session compares it" } else { "is written" };
    let told = format!("a seed of {} {what}", seed.name);
    let kind = if import { "seed_imported" } else { "seed_exported" };
    node.events.record(Happening::info(kind, told).vm(vm).node(&node.name));
    Ok(seed)
}

async fn write(node: &Node, vm: VmId, folder: PathBuf) -> Result<Seed, Refusal> {
    let service = node.vms.service()?;
    let report = node.vms.vm(vm).filter(|report| report.role == VmRole::Primary).ok_or_else(|| {
        Refusal::new(Class::NotFound, "not_found", format!("{} does not have VM {vm}", node.name))
            .field("vm")
            .remedy("give the command at the primary's cluster, while the VM service runs there")
    })?;
    if let Some(fault) = report.fault {
        return Err(fault);
    }
    let (disks, clock) = (report.vm.disks.clone(), Arc::clone(&node.outside.clock));
    let writing = Arc::new(Writing { folder, disks: disks.clone(), clock });
    let (first, images) = (Arc::clone(&writing), report.images.clone());
    blocking(move || first.begin(&images)).await?;
    let frozen = Standstill::begin(service, vm, &disks).await;
    let finished = match frozen {
        Ok((standstill, frozen)) => {
            let taken_at = node.outside.clock.wall();
            let (second, images) = (Arc::clone(&writing), frozen.images);
            let scanned = blocking(move || second.bring_up(&images)).await;
            let ended = standstill.end().await;
            scanned.and_then(|disks| ended.map(|_| (taken_at, disks)))
        }
        Err(refusal) => Err(refusal),
    };
    let name = report.vm.name.to_string();
    blocking(move || match finished {
        Ok((taken_at, disks)) => writing.finish(Seed { vm, name, taken_at, disks }).inspect_err(|_| writing.clear()),
        Err(refusal) => {
            writing.clear();
            Err(refusal)
        }
    })
    .await
}

/// A seed that is being written.
struct Writing {
    folder: PathBuf,
    disks: Vec<DiskSpec>,
    clock: Arc<dyn Clock>,
}

impl Writing {
    fn index(&self, target: &DiskTarget, pass: &str) -> PathBuf {
        self.folder.join(format!("{target}.{pass}.index"))
    }

    /// The name of an image until it is complete.
    fn unfinished(&self, target: &DiskTarget) -> PathBuf {
        durable::temporary(&image_path(&self.folder, target))
    }

    /// Copies the disks as they are while the VM runs. Refuses to replace anything.
    fn begin(&self, images: &[Image]) -> Result<(), Refusal> {
        fs::create_dir_all(&self.folder).map_err(|error| fault("create", &self.folder, &error))?;
        let files = self.disks.iter().map(|disk| image_path(&self.folder, &disk.target));
        if let Some(there) = files.chain([self.folder.join(NOTE)]).find(|file| file.exists()) {
            let message = format!("{} is there already", quoted(&there.to_string_lossy()));
            return Err(Refusal::new(Class::Refused, "file_exists", message)
                .field("dir")
                .remedy("write the seed into another folder, or move the file away"));
        }
        let copied = self.disks.iter().try_for_each(|disk| self.copy(disk, images));
        if copied.is_err() {
            self.clear();
        }
        copied
    }

    fn copy(&self, disk: &DiskSpec, images: &[Image]) -> Result<(), Refusal> {
        let path = self.unfinished(&disk.target);
        let file = durable::create(&path)?;
        file.set_len(disk.bytes).map_err(|error| fault("write", &path, &error))?;
        self.pass(disk, images, Baseline::Zeroes, "first", &file).map(drop)
    }

    /// Brings the images to the instant at which the VM stands still.
    fn bring_up(&self, images: &[Image]) -> Result<Vec<SeedDisk>, Refusal> {
        let bring = |disk: &DiskSpec| {
            let first = self.index(&disk.target, "first");
            let gone = || fault("read", &first, &std::io::Error::other("it is gone"));
            let index = HashIndex::open(&first)?.ok_or_else(gone)?;
            let path = self.unfinished(&disk.target);
            let file = File::options().write(true).open(&path).map_err(|error| fault("open", &path, &error))?;
            let root = self.pass(disk, images, Baseline::Index(&index), "second", &file)?;
            Ok(SeedDisk { target: disk.target.clone(), bytes: disk.bytes, root: root.into() })
        };
        self.disks.iter().map(bring).collect()
    }

    fn pass(
        &self,
        disk: &DiskSpec,
        images: &[Image],
        baseline: Baseline<'_>,
        pass: &str,
        file: &File,
    ) -> Result<Root, Refusal> {
        let source = Source::open(image_of(images, disk)?)?;
        let writer = IndexWriter::create(&self.index(&disk.target, pass), disk.bytes, BLOCK_BYTES)?;
        let mut put =
            |extent: Extent| put(file, &extent).map_err(|error| fault("write", &self.unfinished(&disk.target), &error));
        scan(&source, 0, baseline, writer, self.clock.as_ref(), &mut put).map(|report| report.root)
    }

    /// Gives the images their names, and the folder its note.
    fn finish(&self, seed: Seed) -> Result<Seed, Refusal> {
        for disk in &self.disks {
            let path = self.unfinished(&disk.target);
            let file = File::open(&path).map_err(|error| fault("open", &path, &error))?;
            durable::sync(&file, &path)?;
        }
        for disk in &self.disks {
            durable::rename(&self.unfinished(&disk.target), &image_path(&self.folder, &disk.target))?;
        }
        self.clear();
        durable::sync_folder(&self.folder)?;
        durable::replace(&self.folder.join(NOTE), &seed.encode()?)?;
        Ok(seed)
    }

    /// Removes what is no seed. What cannot be removed is replaced by the next export into this folder.
    fn clear(&self) {
        for disk in &self.disks {
            let indexes = ["first", "second"].map(|pass| self.index(&disk.target, pass));
            let unfinished = indexes.iter().map(|index| durable::temporary(index));
            for path in unfinished.chain(indexes.iter().cloned()).chain([self.unfinished(&disk.target)]) {
                let _ = durable::remove(&path);
            }
        }
    }
}

fn put(file: &File, extent: &Extent) -> std::io::Result<()> {
    match &extent.content {
        Content::Data(data, _) => file.write_all_at(data, extent.offset),
        Content::Zero(length) => {
            let (mut at, end) = (extent.offset, extent.offset + length);
            while at < end {
                let now = (end - at).min(ZEROES.len() as u64);
                file.write_all_at(&ZEROES[..now as usize], at)?;
                at += now;
            }
            Ok(())
        }
    }
}

async fn take(node: &Node, replicas: &Replicas, vm: VmId, folder: PathBuf) -> Result<Seed, Refusal> {
    let state = node.state();
    let replica = state.replicas.get(&vm).filter(|replica| replica.receiver() == node.me).ok_or_else(|| {
        Refusal::new(Class::NotFound, "no_replica", format!("{} receives no replica of {vm}", node.name)).field("vm")
    })?;
    let store = replicas.store(replica).await?;
    let wanted = replica.vm.disks.clone();
    let clock = Arc::clone(&node.outside.clock);
    let mut store = store.lock_owned().await;
    blocking(move || {
        store.check_unseeded()?;
        let seed = Seed::load(&folder)?;
        let images = checked(&seed, vm, &wanted, &folder)?;
        let sources = images.iter().map(Source::open).collect::<Result<Vec<_>, _>>()?;
        let disks: Vec<(Local<'_>, Root)> = wanted
            .iter()
            .zip(&sources)
            .zip(&seed.disks)
            .map(|((spec, source), disk)| ((spec.clone(), source as &dyn Readable), disk.root.0))
            .collect();
        store.take_seed(&disks, clock.as_ref(), &mut |_| Ok(()))?;
        Ok(seed)
    })
    .await
}

/// The images of a seed, where it is one of `vm` and fits its disks.
fn checked(seed: &Seed, vm: VmId, wanted: &[DiskSpec], folder: &Path) -> Result<Vec<Image>, Refusal> {
    if seed.vm != vm {
        let message = format!("the seed is of {} ({}), not of VM {vm}", quoted(&seed.name), seed.vm);
        return Err(Refusal::new(Class::Refused, "other_vm", message)
            .field("dir")
            .remedy("give the folder with the seed of this VM"));
    }
    let shown = |disks: &mut dyn Iterator<Item = (&DiskTarget, u64)>| -> String {
        disks.map(|(target, bytes)| format!("{target} with {bytes} bytes")).collect::<Vec<_>>().join(", ")
    };
    let theirs = seed.disks.iter().map(|disk| (&disk.target, disk.bytes));
    let ours = wanted.iter().map(|disk| (&disk.target, disk.bytes));
    if !theirs.clone().eq(ours.clone()) {
        let message = format!(
            "the seed has the disks {}; the VM has {}",
            shown(&mut theirs.into_iter()),
            shown(&mut ours.into_iter())
        );
        return Err(Refusal::new(Class::Refused, "other_disks", message)
            .field("dir")
            .remedy("write the seed anew: `landfall vm seed export`"));
    }
    let image = |disk: &SeedDisk| {
        let path = image_path(folder, &disk.target);
        let found = match fs::metadata(&path) {
            Ok(meta) => meta.len(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(bad(folder, &format!("has no file {}.raw", disk.target)));
            }
            Err(error) => return Err(fault("look at", &path, &error)),
        };
        if found != disk.bytes {
            let why = format!("has {}.raw with {found} bytes instead of {}", disk.target, disk.bytes);
            return Err(bad(folder, &why));
        }
        Ok(Image { target: disk.target.clone(), path, format: ImageFormat::Raw, bytes: disk.bytes })
    };
    seed.disks.iter().map(image).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seed() -> Seed {
        let root = Root([7; 32]).into();
        let disks = vec![SeedDisk { target: "vda".parse().unwrap(), bytes: 4096, root }];
        Seed { vm: VmId(uuid::Uuid::from_u128(7)), name: "web".to_owned(), taken_at: UnixMillis(5), disks }
    }

    #[test]
    fn a_note_reads_back_and_any_damage_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Seed::load(folder.path()).unwrap_err().code, "bad_seed");
        let good = seed().encode().unwrap();
        let path = folder.path().join(NOTE);
        fs::write(&path, &good).unwrap();
        assert_eq!(Seed::load(folder.path()).unwrap(), seed());
        for at in 0..good.len() - 1 {
            let mut damaged = good.clone();
            damaged[at] ^= 1;
            fs::write(&path, &damaged).unwrap();
            assert!(Seed::load(folder.path()).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_seed_that_does_not_fit_is_refused_with_what_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let (seed, file) = (seed(), folder.path().join("vda.raw"));
        let wanted = [DiskSpec { target: "vda".parse().unwrap(), bytes: 4096 }];
        let code = |vm: u128, wanted: &[DiskSpec]| {
            let refusal = checked(&seed, VmId(uuid::Uuid::from_u128(vm)), wanted, folder.path()).unwrap_err();
            assert!(refusal.field.as_deref() == Some("dir") && refusal.remedy.is_some(), "{refusal}");
            refusal.message
        };
        assert!(code(8, &wanted).contains("not of VM"));
        assert!(code(7, &[DiskSpec { bytes: 8192, ..wanted[0].clone() }]).contains("8192"));
        assert!(code(7, &wanted).contains("no file vda.raw"));
        fs::write(&file, [0; 4095]).unwrap();
        assert!(code(7, &wanted).contains("4095"));
        fs::write(&file, [0; 4096]).unwrap();
        checked(&seed, seed.vm, &wanted, folder.path()).unwrap();
    }
}
