//! The store on a real disk: killed, failing, opened by the wrong node.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

/// Held while a child is started, shared while a test counts on a closed store's locks being free: between its fork and
/// its exec a child has a copy of every open file, and with it of every lock.
static FORKS: tokio::sync::RwLock<()> = tokio::sync::RwLock::const_new(());

fn node(name: &str) -> NodeName {
    name.parse().unwrap()
}

fn put(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Batch {
    let mut batch = Batch::new();
    batch.put(key, value);
    batch
}

#[tokio::test]
async fn what_is_committed_is_there_after_reopening() {
    let _no_forks = FORKS.read().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let kv = DurableSled::open(&path, &node("r1")).unwrap();
    let mut batch = put("k/1", "one");
    batch.put("k/2", "two");
    batch.put("k/3", "three");
    kv.commit(batch).await.unwrap();
    let mut batch = Batch::new();
    batch.delete("k/2");
    kv.commit(batch).await.unwrap();
    drop(kv);

    let kv = DurableSled::open(&path, &node("r1")).unwrap();
    assert_eq!(kv.get(b"k/2").unwrap(), None);
    let pairs = kv.scan(b"k/", b"k0", 10).unwrap();
    assert_eq!(pairs, [(b"k/1".to_vec(), b"one".to_vec()), (b"k/3".to_vec(), b"three".to_vec())]);
    assert_eq!(kv.scan(b"k/", b"k0", 1).unwrap().len(), 1);
    assert_eq!(kv.last(b"k/", b"k0").unwrap().unwrap().1, b"three");
    assert_eq!(kv.last(b"x", b"a").unwrap(), None);
}

#[tokio::test]
async fn one_folder_is_one_process_and_one_node() {
    let _no_forks = FORKS.read().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let kv = DurableSled::open(&path, &node("r1")).unwrap();
    assert!(matches!(DurableSled::open(&path, &node("r1")), Err(OpenError::InUse { .. })));
    drop(kv);
    let error = DurableSled::open(&path, &node("r2")).unwrap_err();
    assert!(matches!(&error, OpenError::OtherNode { owner, .. } if owner == "r1"), "{error}");
    assert_eq!(error.refusal().field.as_deref(), Some("data_dir"));
    DurableSled::open(&path, &node("r1")).unwrap();
}

#[tokio::test]
async fn an_unknown_format_and_a_foreign_folder_are_refused() {
    let _no_forks = FORKS.read().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let kv = DurableSled::open(&path, &node("r1")).unwrap();
    kv.commit(put(FORMAT_KEY, 9u32.to_be_bytes())).await.unwrap();
    drop(kv);
    let error = DurableSled::open(&path, &node("r1")).unwrap_err();
    assert!(matches!(&error, OpenError::OtherFormat { found, .. } if found == "9"), "{error}");

    let foreign = folder.path().join("home");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("thesis.txt"), b"text").unwrap();
    assert!(matches!(DurableSled::open(&foreign, &node("r1")), Err(OpenError::NotAStore { .. })));
    assert_eq!(fs::read(foreign.join("thesis.txt")).unwrap(), b"text");
}

#[tokio::test]
async fn a_damaged_store_says_how_to_set_it_aside() {
    let _no_forks = FORKS.read().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    drop(DurableSled::open(&path, &node("r1")).unwrap());
    let conf = fs::read(path.join("conf")).unwrap();
    fs::write(path.join("conf"), b"\0\0\0\0damaged\n").unwrap();
    let error = DurableSled::open(&path, &node("r1")).unwrap_err();
    let text = error.refusal().to_string();
    assert!(text.contains("mv ") && text.contains("landfall token create --replaces r1"), "{text}");
    assert!(text.contains("landfall cluster join TOKEN"), "{text}");
    fs::write(path.join("conf"), conf).unwrap();
    DurableSled::open(&path, &node("r1")).unwrap();
}

#[tokio::test]
async fn after_one_failed_sync_every_call_fails() {
    let _no_forks = FORKS.read().await;
    let folder = tempfile::tempdir().unwrap();
    let syncs = AtomicU64::new(0);
    let sync = move |_: &File| match syncs.fetch_add(1, Ordering::SeqCst) {
        1 => Err(io::Error::from_raw_os_error(5)),
        _ => Ok(()),
    };
    let kv = DurableSled::open_with(folder.path(), &node("r1"), Box::new(sync)).unwrap();
    let mut health = kv.health();
    kv.commit(put("a", "1")).await.unwrap();
    assert!(matches!(kv.commit(put("b", "2")).await, Err(KvError::Poisoned(_))));
    assert!(matches!(kv.commit(put("c", "3")).await, Err(KvError::Poisoned(_))), "the third sync would succeed");
    health.wait_for(|health| matches!(health, Health::Poisoned(_))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_commits_share_a_sync() {
    let _no_forks = FORKS.read().await;
    let folder = tempfile::tempdir().unwrap();
    let syncs = Arc::new(AtomicU64::new(0));
    let count = syncs.clone();
    let sync = move |_: &File| {
        count.fetch_add(1, Ordering::SeqCst);
        thread::sleep(Duration::from_millis(20));
        Ok(())
    };
    let kv = Arc::new(DurableSled::open_with(folder.path(), &node("r1"), Box::new(sync)).unwrap());
    let writers = (0..64u64).map(|n| {
        let kv = kv.clone();
        tokio::spawn(async move { kv.commit(put(n.to_be_bytes(), "v")).await })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap().unwrap();
    }
    assert!(syncs.load(Ordering::SeqCst) < 32, "64 commits in {} syncs", syncs.load(Ordering::SeqCst));
}

/// Names the folder to the child process of the next test.
const CHILD: &str = "LANDFALL_TEST_STORE_CHILD";

/// The child: commits numbers for ever and prints each one once it is durable.
#[tokio::test]
async fn commit_until_killed() {
    let Ok(folder) = std::env::var(CHILD) else { return };
    let kv = Arc::new(DurableSled::open(Path::new(&folder), &node("r1")).unwrap());
    let start: u64 = kv.scan(b"k", b"l", usize::MAX).unwrap().len() as u64;
    for round in 0.. {
        let numbers: Vec<u64> = (0..4).map(|n| start + round * 4 + n).collect();
        let commits = numbers.iter().map(|n| {
            let (kv, key) = (kv.clone(), [b"k".to_vec(), n.to_be_bytes().to_vec()].concat());
            tokio::spawn(async move { kv.commit(put(key, vec![7; 300])).await.unwrap() })
        });
        for commit in commits.collect::<Vec<_>>() {
            commit.await.unwrap();
        }
        let mut out = io::stdout();
        for number in numbers {
            writeln!(out, "durable {number}").unwrap();
        }
        out.flush().unwrap();
    }
}

#[tokio::test]
async fn a_killed_process_loses_nothing_that_it_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let mut acknowledged = BTreeSet::new();
    for round in 0..8usize {
        let forking = FORKS.write().await;
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "durable_sled::tests::commit_until_killed", "--nocapture"])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        drop(forking);
        // Killed after so many acknowledgements, so that no run depends on the machine's speed.
        let wanted = acknowledged.len() + 10 + round * 17;
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            // The first line of the test harness has no end of its own.
            if let Some((_, number)) = line.unwrap().split_once("durable ") {
                acknowledged.insert(number.trim().parse::<u64>().unwrap());
            }
            if acknowledged.len() >= wanted {
                child.kill().unwrap();
                break;
            }
        }
        child.wait().unwrap();
        let kv = DurableSled::open(&path, &node("r1")).unwrap();
        for number in &acknowledged {
            let key = [b"k".to_vec(), number.to_be_bytes().to_vec()].concat();
            assert_eq!(kv.get(&key).unwrap(), Some(vec![7; 300]), "round {round}: {number} was acknowledged");
        }
    }
    assert!(acknowledged.len() > 500);
}
