//! The disk under small workloads of known behaviour: those that sync survive, those that do not are caught.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rand_chacha::ChaCha12Rng;

use super::*;

fn sync_folder(folder: &Path) -> std::io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Appends numbered records of 300 bytes to one log, as a store does.
struct Log {
    synced: bool,
}

impl Log {
    fn append(&self, folder: &Path, next: &mut u64) -> std::io::Result<()> {
        let mut log = OpenOptions::new().create(true).append(true).open(folder.join("log"))?;
        sync_folder(folder)?;
        // The part of a record that a cut left behind is cut off, as a store does when it opens.
        let whole = log.metadata()?.len() / 300 * 300;
        log.set_len(whole)?;
        log.sync_all()?;
        loop {
            let mut record = [0_u8; 300];
            record[..8].copy_from_slice(&next.to_le_bytes());
            record[292..].copy_from_slice(&next.to_le_bytes());
            log.write_all(&record)?;
            if self.synced {
                log.sync_data()?;
            }
            *next += 1;
        }
    }
}

impl Workload for Log {
    type Acknowledged = u64;

    fn write(&mut self, folder: &Path, _: &mut ChaCha12Rng, next: &mut u64) {
        self.append(folder, next).unwrap_err();
    }

    fn check(&mut self, folder: &Path, next: &u64) -> Result<(), String> {
        let log = match fs::read(folder.join("log")) {
            Ok(log) => log,
            Err(fault) if fault.kind() == ErrorKind::NotFound && *next == 0 => return Ok(()),
            Err(fault) => return Err(fault.to_string()),
        };
        for number in 0..*next {
            let record =
                log.get(number as usize * 300..(number as usize + 1) * 300).ok_or(format!("{number} is gone"))?;
            if record[..8] != number.to_le_bytes() || record[292..] != number.to_le_bytes() {
                return Err(format!("{number} is damaged"));
            }
        }
        // Cuts may leave records that nobody was told of; they are taken away so that numbers stay in step.
        let file = OpenOptions::new().write(true).open(folder.join("log")).map_err(|fault| fault.to_string())?;
        file.set_len(next * 300).and_then(|()| file.sync_all()).map_err(|fault| fault.to_string())
    }
}

#[test]
fn a_log_that_syncs_survives_thirty_cuts_and_one_that_does_not_is_caught() {
    let test = "a_log_that_syncs_survives_thirty_cuts";
    let Some(survived) = PowerCuts::thirty(7).run(test, &mut Log { synced: true }).unwrap() else { return };
    assert!(survived.cuts >= 25 && survived.toll.pages_dropped + survived.toll.pages_torn > 0, "{survived:?}");
    let fault = PowerCuts::thirty(7).run(test, &mut Log { synced: false }).unwrap_err();
    assert!(fault.contains("is gone") || fault.contains("is damaged"), "{fault}");
}

/// Seals files under their final name: written and synced under another one, renamed, folder synced, acknowledged. The
/// shape of a replica folder, whose listed points must be whole.
struct Sealed {
    sync_data: bool,
    sync_names: bool,
}

impl Sealed {
    fn contents(number: u64) -> Vec<u8> {
        (0..10_000).map(|place| (place as u64 * 31 + number) as u8).collect()
    }

    fn seal(&self, folder: &Path, next: &mut u64) -> std::io::Result<()> {
        loop {
            let (staged, sealed) = (folder.join("staged"), folder.join(format!("point-{next}")));
            let mut file = File::create(&staged)?;
            file.write_all(&Self::contents(*next))?;
            if self.sync_data {
                file.sync_all()?;
            }
            fs::rename(&staged, &sealed)?;
            if self.sync_names {
                sync_folder(folder)?;
            }
            *next += 1;
        }
    }
}

impl Workload for Sealed {
    type Acknowledged = u64;

    fn write(&mut self, folder: &Path, _: &mut ChaCha12Rng, next: &mut u64) {
        self.seal(folder, next).unwrap_err();
    }

    fn check(&mut self, folder: &Path, next: &u64) -> Result<(), String> {
        for number in 0..*next {
            let sealed: PathBuf = folder.join(format!("point-{number}"));
            let found = fs::read(sealed).map_err(|fault| format!("point {number}: {fault}"))?;
            if found != Self::contents(number) {
                return Err(format!("point {number} is there only in part"));
            }
        }
        Ok(())
    }
}

#[test]
fn a_sealed_file_is_whole_after_thirty_cuts_and_each_sync_left_out_is_caught() {
    let test = "a_sealed_file_is_whole_after_thirty_cuts";
    let right = &mut Sealed { sync_data: true, sync_names: true };
    let Some(survived) = PowerCuts::thirty(11).run(test, right).unwrap() else { return };
    assert!(survived.toll.names_dropped > 0, "{survived:?}");
    let fault = PowerCuts::thirty(11).run(test, &mut Sealed { sync_data: false, sync_names: true }).unwrap_err();
    assert!(fault.contains("only in part"), "{fault}");
    let fault = PowerCuts::thirty(11).run(test, &mut Sealed { sync_data: true, sync_names: false }).unwrap_err();
    assert!(fault.contains("No such file"), "{fault}");
}

#[test]
fn a_failed_sync_is_reported_once_and_what_it_was_to_save_is_lost() {
    let Some(mut disk) = PowerDisk::mount_or_skip("a_failed_sync_is_reported_once") else { return };
    let path = disk.path().join("a");
    let mut file = File::create(&path).unwrap();
    sync_folder(disk.path()).unwrap();
    file.write_all(b"first").unwrap();
    disk.fail_sync(1);
    assert_eq!(file.sync_all().unwrap_err().raw_os_error(), Some(5));
    file.sync_all().unwrap();
    drop(file);
    disk.cut(3);
    assert_eq!(fs::read(&path).unwrap_err().raw_os_error(), Some(5), "the power is off");
    disk.restore().unwrap();
    assert!(fs::read(&path).unwrap().iter().all(|&byte| byte == 0));
}

#[test]
fn a_full_disk_refuses_writes_until_there_is_room() {
    let Some(disk) = PowerDisk::mount_or_skip("a_full_disk_refuses_writes") else { return };
    disk.limit(Some(64 << 10));
    let mut file = File::create(disk.path().join("a")).unwrap();
    assert_eq!(file.write_all(&[1; 128 << 10]).unwrap_err().kind(), ErrorKind::StorageFull);
    file.set_len(0).unwrap();
    file.write_all_at(&[1; 32 << 10], 0).unwrap();
    disk.limit(None);
    file.write_all_at(&[1; 1 << 20], 0).unwrap();
}

#[test]
fn a_hung_disk_answers_once_it_is_released() {
    let Some(disk) = PowerDisk::mount_or_skip("a_hung_disk_answers_once_it_is_released") else { return };
    let file = File::create(disk.path().join("a")).unwrap();
    disk.hang(true);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| file.write_all_at(b"x", 0));
        std::thread::sleep(Duration::from_millis(100));
        assert!(!waiting.is_finished());
        disk.hang(false);
        waiting.join().unwrap().unwrap();
    });
    assert!(begun.elapsed() >= Duration::from_millis(100));
}

#[test]
fn what_a_killed_process_had_synced_is_there_after_the_cut() {
    let test = "power::tests::what_a_killed_process_had_synced_is_there_after_the_cut";
    if let Some(folder) = role() {
        let mut log = File::create(Path::new(&folder).join("log")).unwrap();
        sync_folder(Path::new(&folder)).unwrap();
        for number in 0_u64.. {
            log.write_all(&number.to_le_bytes()).unwrap();
            log.sync_data().unwrap();
            println!("acknowledged {number}");
        }
    }
    let Some(mut disk) = PowerDisk::mount_or_skip(test) else { return };
    let mut child = rerun(test, &disk.path().display().to_string()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let acknowledged = lines.by_ref().map_while(Result::ok).find_map(|line| {
        line.strip_prefix("acknowledged ").and_then(|number| number.parse::<u64>().ok()).filter(|&number| number >= 40)
    });
    disk.cut(5);
    child.kill().unwrap();
    child.wait().unwrap();
    let last = lines.map_while(Result::ok).filter_map(|line| line.strip_prefix("acknowledged ")?.parse().ok()).last();
    disk.restore().unwrap();
    let mut log = Vec::new();
    File::open(disk.path().join("log")).unwrap().read_to_end(&mut log).unwrap();
    let promised = last.or(acknowledged).unwrap();
    assert!(log.len() as u64 / 8 > promised, "{promised} was acknowledged, {} bytes are there", log.len());
}
