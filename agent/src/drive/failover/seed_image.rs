//! The image that tells a guest its addresses: a FAT volume called `cidata`, which cloud-init's NoCloud looks for on
//! every disk.

use std::io::{self, Cursor, Write};
use std::path::Path;

use fatfs::{Date, DateTime, FileSystem, FormatVolumeOptions, FsOptions, Time, TimeProvider, format_volume};
use landfall_proto::Refusal;

use crate::decide::seed::{LABEL, Seed};
use crate::drive::image::durable::{self, fault};

/// The image's size: room for the longest configuration of all adapters many times over.
const BYTES: usize = 1 << 20;

/// The time of every file: the guest reads none, and the same seed gives the same image.
#[derive(Debug)]
struct Fixed;

impl TimeProvider for Fixed {
    fn get_current_date(&self) -> Date {
        Date { year: 2000, month: 1, day: 1 }
    }

    fn get_current_date_time(&self) -> DateTime {
        DateTime { date: self.get_current_date(), time: Time { hour: 0, min: 0, sec: 0, millis: 0 } }
    }
}

/// Writes the image, whole or not at all.
pub(super) fn write(path: &Path, seed: &Seed) -> Result<(), Refusal> {
    let bytes = image(seed).map_err(|error| fault("write", path, &error))?;
    durable::replace(path, &bytes)
}

fn image(seed: &Seed) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; BYTES];
    let mut label = [b' '; 11];
    label[..LABEL.len()].copy_from_slice(LABEL.as_bytes());
    format_volume(Cursor::new(&mut bytes[..]), FormatVolumeOptions::new().volume_label(label))?;
    {
        let volume = FileSystem::new(Cursor::new(&mut bytes[..]), FsOptions::new().time_provider(&Fixed))?;
        for (name, content) in seed.files() {
            volume.root_dir().create_file(name)?.write_all(content.as_bytes())?;
        }
        volume.unmount()?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::process::Command;

    use super::*;

    fn sample() -> Seed {
        Seed {
            meta_data: "instance-id: \"iid-1\"\n".to_owned(),
            user_data: "#cloud-config\n".to_owned(),
            network_config: "version: 2\n".repeat(4000),
        }
    }

    /// What a tool prints; `None` where it is not on this machine, which is said loudly.
    fn printed(tool: &str, arguments: &[&str]) -> Option<String> {
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
        let found = std::env::split_paths(&path).map(|folder| folder.join(tool)).find(|tool| tool.exists());
        let Some(tool) = found else {
            eprintln!("SKIPPED: {tool} is not on this machine, so a seed image is not read by it");
            return None;
        };
        let output = Command::new(tool).args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        Some(String::from_utf8(output.stdout).unwrap())
    }

    fn written(folder: &Path) -> PathBuf {
        let path = folder.join("seed.img");
        write(&path, &sample()).unwrap();
        path
    }

    #[test]
    fn other_programs_find_the_label_and_read_the_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path());
        let image = path.to_str().unwrap();
        if let Some(found) = printed("blkid", &["-p", "-o", "export", image]) {
            assert!(found.lines().any(|line| line == "LABEL=cidata") && found.contains("TYPE=vfat"), "{found}");
        }
        for (name, content) in sample().files() {
            if let Some(read) = printed("mtype", &["-i", image, &format!("::{name}")]) {
                assert_eq!(read, content, "{name}");
            }
        }
        if let Some(listed) = printed("mdir", &["-b", "-i", image, "::"]) {
            let mut names: Vec<_> = listed.lines().map(|line| line.trim_start_matches("::/")).collect();
            names.sort_unstable();
            assert_eq!(names, ["meta-data", "network-config", "user-data"]);
        }
        if let Some(checked) = printed("fsck.fat", &["-n", image]) {
            // The label counts as one.
            assert!(checked.contains("4 files"), "{checked}");
        }
    }

    #[test]
    fn an_image_is_the_same_each_time_and_holds_no_more_than_it_can() {
        assert_eq!(image(&sample()).unwrap(), image(&sample()).unwrap());
        let large = Seed { user_data: "x".repeat(BYTES), ..sample() };
        assert!(image(&large).is_err());
    }
}
