//! The end of the story: both sides, compared byte for byte.

use std::path::{Path, PathBuf};
use std::time::Duration;

use landfall_proto::Refusal;
use landfall_proto::id::{DiskTarget, Root};
use rustix::process::Signal;

use super::enabled::holder;
use super::pointed::{every_point, export};
use crate::demo::company::{signal, stands, working_in};
use crate::demo::props::{WORKLOAD, digest, qemu_img_compare};
use crate::demo::story::Story;
use crate::demo::until::{check, io, not_so, until};
use crate::drive::image::content_root;
use crate::surface::hex::RootHex;
use crate::surface::point::PointStatus;
use crate::vm_service::{Image, ImageFormat, VmReport, VmService};

/// The node on which the VM runs by now.
const HOST: &str = "p4";
/// How long until every listed point shows the VM as it stands.
const STANDS_WITHIN: Duration = Duration::from_secs(40);

/// Stops the VM's process where it is, so that its disks stay as they are at one instant, and compares.
pub async fn play(story: &Story) -> Result<(), Refusal> {
    let asked = "r1";
    let read = every_point(story, asked).await?;
    let newest = read.iter().map(|(_, records)| *records).max().unwrap_or_default();
    story.stage.saw(&format!("each is one instant; the newest holds records 1..{newest}"));
    story.stage.say(
        "The VM's process is stopped between two of its writes (kill -STOP): its disks are frozen, and the demo reads \
         them itself.",
    );
    let guest = Guest(working_in(&vm_folder(story).await?));
    check(!guest.0.is_empty(), || format!("no process of {WORKLOAD} runs at {HOST}"))?;
    let newest = still(story, asked, &guest).await?;
    compare(story, asked, &newest).await?;
    let stood = story.show(HOST).await?;
    drop(guest);
    let after = story.next_point(HOST, &stood, STANDS_WITHIN).await?;
    story.stage.saw(&format!("the VM goes on, and so do its points, received by {}", holder(&after)?));
    Ok(())
}

/// The VM's processes; they go on when it is dropped.
struct Guest(Vec<i32>);

impl Drop for Guest {
    fn drop(&mut self) {
        for pid in &self.0 {
            // One that has ended does not go on, which the next step finds.
            let _ = signal(*pid, Signal::CONT);
        }
    }
}

/// The folder of the VM, which its process works in.
async fn vm_folder(story: &Story) -> Result<PathBuf, Refusal> {
    let report = report(story).await?;
    let image = report.images.first().and_then(|image| image.path.parent().map(Path::to_owned));
    image.ok_or_else(|| not_so(format!("{WORKLOAD} has no image at {HOST}")))
}

async fn report(story: &Story) -> Result<VmReport, Refusal> {
    let reports = story.cast.at(HOST)?.vm_service().list().await?;
    let report = reports.into_iter().find(|report| report.vm.id == story.workload.id);
    report.ok_or_else(|| not_so(format!("{HOST} does not list {WORKLOAD}")))
}

/// Keeps the VM stopped until every listed point has the same content: then it stood still while all of them were made,
/// no file of the replica changes any more, and any of them is the present one.
async fn still(story: &Story, node: &str, guest: &Guest) -> Result<PointStatus, Refusal> {
    until("points of the VM that stands still", STANDS_WITHIN, async || {
        let moving: Vec<i32> = guest.0.iter().copied().filter(|pid| !stands(*pid)).collect();
        // A freeze that had begun before may have let it go on when it ended.
        moving.iter().try_for_each(|pid| signal(*pid, Signal::STOP))?;
        let listed = story.listed(node).await?;
        let newest = listed.last().cloned().ok_or("none is listed")?;
        let same = listed.iter().filter(|point| point.root == newest.root).count();
        if moving.is_empty() && listed.len() > 1 && same == listed.len() {
            return Ok(newest);
        }
        Err(format!("{same} of {} have the same content", listed.len()).into())
    })
    .await
}

async fn compare(story: &Story, node: &str, newest: &PointStatus) -> Result<(), Refusal> {
    let raws = raw_images(story, &report(story).await?)?;
    let own = root_of(&raws)?;
    story.stage.saw(&format!("root of the frozen images:   {own}"));
    story.stage.saw(&format!("root of the newest point:    {}", newest.root));
    check(own == newest.root, || format!("point {} has root {}, the disks {own}", newest.point, newest.root))?;
    let folder = story.cast.folder().join("export-newest");
    story.stage.command(node, &format!("point export {WORKLOAD} DIR"));
    let exported = export(story, node, None, &folder).await?;
    let copies: Vec<(DiskTarget, u64, PathBuf)> =
        exported.files.into_iter().map(|file| (file.target, file.bytes, file.path)).collect();
    let there = root_of(&copies)?;
    check(there == own, || format!("the exported images have root {there}, the disks {own}"))?;
    story.stage.saw(&format!("root of exported images:     {there}"));
    let holder = story.locate(node).await?.node.to_string();
    let replica = story.replica_folder(&holder)?;
    let mut compared = Vec::new();
    for (target, _, raw) in &raws {
        let head = head(&replica, target)?;
        if qemu_img_compare(&head, raw)?.is_some() {
            compared.push(target.to_string());
        }
    }
    match compared.as_slice() {
        [] => story.stage.saw("qemu-img is not installed here, so it is not asked"),
        disks => story.stage.saw(&format!(
            "qemu-img compare of {holder}'s qcow2 files with the disks: identical ({})",
            disks.join(", ")
        )),
    }
    Ok(())
}

/// The primary's disks as raw images: as they are, or converted by qemu-img.
fn raw_images(story: &Story, report: &VmReport) -> Result<Vec<(DiskTarget, u64, PathBuf)>, Refusal> {
    let raw = |image: &Image| {
        let path = match image.format {
            ImageFormat::Raw => image.path.clone(),
            ImageFormat::Qcow2 => converted(story, image)?,
        };
        Ok((image.target.clone(), image.bytes, path))
    };
    report.images.iter().map(raw).collect()
}

fn converted(story: &Story, image: &Image) -> Result<PathBuf, Refusal> {
    let to = story.cast.folder().join(format!("primary-{}.raw", image.target));
    let mut convert = std::process::Command::new("qemu-img");
    convert.args(["convert", "-U", "-f", "qcow2", "-O", "raw"]).arg(&image.path).arg(&to);
    let output = convert.output().map_err(|error| {
        io(Path::new("qemu-img"), &error).remedy("install qemu-img, which reads your qcow2 image for this comparison")
    })?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    check(output.status.success(), || format!("qemu-img convert {}: {said}", image.path.display()))?;
    Ok(to)
}

/// The content root over raw images.
fn root_of(images: &[(DiskTarget, u64, PathBuf)]) -> Result<RootHex, Refusal> {
    let root = |(target, bytes, path): &(DiskTarget, u64, PathBuf)| Ok((target.clone(), *bytes, Root(digest(path)?)));
    let roots = images.iter().map(root).collect::<Result<Vec<_>, Refusal>>()?;
    Ok(content_root(roots.iter().map(|(target, bytes, root)| (target, *bytes, root))).into())
}

/// The file of the newest point of a disk: the one with the highest number.
fn head(replica: &Path, target: &DiskTarget) -> Result<PathBuf, Refusal> {
    let entries = std::fs::read_dir(replica).map_err(|error| io(replica, &error))?;
    let prefix = format!("{target}-");
    let heads = entries.flatten().map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        name.starts_with(&prefix) && name.ends_with(".qcow2")
    });
    heads.max().ok_or_else(|| not_so(format!("{} has no file of disk {target}", replica.display())))
}
