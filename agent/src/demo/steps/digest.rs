//! The end of the story: both sides, compared byte for byte.

use std::path::{Path, PathBuf};
use std::time::Duration;

use landfall_proto::Refusal;
use landfall_proto::id::{DiskTarget, Root};
use landfall_proto::message::control::Consistency;

use super::enabled::holder;
use super::pointed::{every_point, export};
use crate::demo::props::{WORKLOAD, digest, qemu_img_compare};
use crate::demo::story::Story;
use crate::demo::until::{check, io, not_so, until};
use crate::drive::image::content_root;
use crate::surface::hex::RootHex;
use crate::surface::point::PointStatus;
use crate::vm_service::{Image, ImageFormat, VmReport, VmService};

/// The node on which the VM runs by now.
const HOST: &str = "p4";
/// How long until every listed point was made after the VM was shut down.
const OFF_WITHIN: Duration = Duration::from_secs(40);

/// Shuts the VM down, so that its disks stay as they are, and compares.
pub async fn play(story: &Story) -> Result<(), Refusal> {
    let asked = "r1";
    let read = every_point(story, asked).await?;
    let newest = read.iter().map(|(_, records)| *records).max().unwrap_or_default();
    story.stage.saw(&format!("each is one instant; the newest holds records 1..{newest}"));
    story.stage.say(&format!(
        "{HOST}'s VM service shuts the VM down, so that its disks stay as they are. The demo reads them itself."
    ));
    let service = story.cast.at(HOST)?.vm_service();
    service.stop(story.workload.id).await?;
    let newest = still(story, asked).await?;
    compare(story, asked, &newest).await?;
    service.start(story.workload.id).await?;
    let stopped = story.show(HOST).await?;
    let after = story.next_point(HOST, &stopped, OFF_WITHIN).await?;
    story.stage.saw(&format!("the VM is started again, and its points go on, received by {}", holder(&after)?));
    Ok(())
}

/// Waits until all points were made while the VM was off, so that no file of the replica changes any more.
async fn still(story: &Story, node: &str) -> Result<PointStatus, Refusal> {
    until("points of the VM that is off", OFF_WITHIN, async || {
        let listed = story.listed(node).await?;
        let off = listed.iter().filter(|point| point.consistency == Consistency::Off).count();
        let newest = listed.last().cloned().ok_or("none is listed")?;
        if off == listed.len() { Ok(newest) } else { Err(format!("{off} of {}", listed.len()).into()) }
    })
    .await
}

async fn compare(story: &Story, node: &str, newest: &PointStatus) -> Result<(), Refusal> {
    let reports = story.cast.at(HOST)?.vm_service().list().await?;
    let report = reports.into_iter().find(|report| report.vm.id == story.workload.id);
    let report = report.ok_or_else(|| not_so(format!("{HOST} does not list {WORKLOAD}")))?;
    let raws = raw_images(story, &report)?;
    let own = root_of(&raws)?;
    story.stage.saw(&format!("root of the primary's disks: {own}"));
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
