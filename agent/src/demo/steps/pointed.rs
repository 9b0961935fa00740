//! Initial copy, change sets, and what each recovery point holds.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use landfall_proto::{Class, Refusal};

use crate::demo::props::{GUEST_DISKS, WORKLOAD};
use crate::demo::stage::bytes;
use crate::demo::story::{Story, doing};
use crate::demo::until::{io, not_so, until};
use crate::guest;
use crate::surface::point::{PointExported, PointStatus};

/// How long the initial copy may take, and then a few change sets.
const COPIED_WITHIN: Duration = Duration::from_secs(120);
const POINTS_WITHIN: Duration = Duration::from_secs(30);
/// The newest point and the four older ones that were asked for.
const POINTS: usize = 5;
/// Lists that are tried: a point may leave the list between being listed and being read.
const LISTS: usize = 5;

/// Waits for points and reads every one of them.
pub async fn play(story: &Story) -> Result<(), Refusal> {
    story.stage.say("The VM writes numbered, checksummed records, one after the other, in turn to vdb and vdc.");
    let first = until("the first recovery point", COPIED_WITHIN, async || {
        let vm = story.show("p1").await?;
        if vm.status.last_point_at.is_some() { Ok(vm) } else { Err(doing(&vm).into()) }
    })
    .await?;
    let total: u64 = first.disks.iter().map(|disk| disk.bytes).sum();
    story.stage.saw(&format!(
        "initial copy while it runs: {} of {} have content and were sent",
        bytes(first.status.sent_bytes),
        bytes(total)
    ));
    until(&format!("{POINTS} recovery points"), POINTS_WITHIN, async || {
        let count = story.listed("r1").await?.len();
        if count >= POINTS { Ok(()) } else { Err(format!("{count} are listed").into()) }
    })
    .await?;
    let vm = story.show("p1").await?;
    story.stage.saw(&format!(
        "each instant: the VM's process {} for {} us",
        vm.freeze.as_deref().unwrap_or("?"),
        vm.frozen_micros.unwrap_or_default()
    ));
    let read = every_point(story, "r1").await?;
    let told: Vec<String> = read.iter().map(|(point, records)| format!("point {point}: 1..{records}")).collect();
    story.stage.saw(&format!("exactly these records over both disks, no more, no fewer: {}", told.join(", ")));
    Ok(())
}

/// Exports all listed points at once and checks the guest's records in each: point and newest record.
pub async fn every_point(story: &Story, node: &str) -> Result<Vec<(u64, u64)>, Refusal> {
    story.stage.command(node, "point list VirtualMachine_Workload");
    let mut told = false;
    for attempt in 1..=LISTS {
        let listed = story.listed(node).await?;
        if !told {
            let numbers = listed.iter().map(|point| point.point.to_string()).collect::<Vec<_>>();
            story.stage.saw(&format!("points {}", numbers.join(" ")));
            story.stage.command(node, &format!("point export {WORKLOAD} --point N DIR   (for each of them)"));
            told = true;
        }
        let folder = story.cast.folder().join(format!("export-{attempt}"));
        // All of them to their end, also when one fails: an export that still writes keeps the folder.
        let read = join_all(listed.iter().map(async |point| one_point(story, node, point, &folder).await)).await;
        let read: Result<Vec<(u64, u64)>, Refusal> = read.into_iter().collect();
        fs::remove_dir_all(&folder).map_err(|error| io(&folder, &error))?;
        match read {
            // It went out of the list, as older points do, before it was read: the next list is read as a whole.
            Err(refusal) if refusal.class == Class::NotFound => {}
            other => return other,
        }
    }
    Err(not_so(format!("in {LISTS} lists, a point went away before it could be read")))
}

async fn one_point(story: &Story, node: &str, point: &PointStatus, folder: &Path) -> Result<(u64, u64), Refusal> {
    let number = point.point;
    let folder = folder.join(number.to_string());
    let exported = export(story, node, Some(number), &folder).await?;
    let region = story.region();
    let records = tokio::task::spawn_blocking(move || {
        let open = |target: &&str| {
            let path = folder.join(format!("{target}.raw"));
            File::open(&path).map_err(|error| io(&path, &error))
        };
        let disks = GUEST_DISKS.iter().map(open).collect::<Result<Vec<File>, Refusal>>()?;
        guest::check(&disks, region)
    });
    let records = records.await.map_err(|error| not_so(format!("point {number} cannot be checked: {error}")))?;
    let records = records.map_err(|refusal| not_so(format!("point {number} is not one instant: {refusal}")))?;
    Ok((exported.point, records))
}

/// Exports a point, the newest where none is given, without telling.
pub async fn export(story: &Story, node: &str, point: Option<u64>, to: &Path) -> Result<PointExported, Refusal> {
    let folder = to.to_str().ok_or_else(|| not_so(format!("{} is not UTF-8", to.display())))?;
    let number = point.map(|point| point.to_string());
    let mut words = vec!["point", "export", WORKLOAD];
    if let Some(number) = &number {
        words.extend(["--point", number]);
    }
    words.push(folder);
    story.quietly(node, &words).await
}
