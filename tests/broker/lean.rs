//! What goes over the line: nothing that is zero or unchanged, compressed where that pays, and counted to the frame.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use landfall_kit::process::{Node, VmFolder, eventually};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha12Rng;

use crate::stage::{LONG, WORK, enable, export, found, goes_on, join_up, number, primaries, replicas};

const MIB: u64 = 1 << 20;
/// The disk: text, then noise, then a hole, 8 MiB each.
const PART: u64 = 8 * MIB;
/// What both sides may count apart: the first two frames of each session.
const OPENING: u64 = 64 << 10;

/// Lines that are like those of a log: about a fifth of them is left by zstd.
fn text(length: u64, seed: u64) -> Vec<u8> {
    let lines = (0u64..).flat_map(|line| {
        let noise = line.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ seed;
        format!("2026-11-30T02:{:02}:11Z node-3 landfall[{}]: point {line} acknowledged\n", line % 60, noise % 9973)
            .into_bytes()
    });
    lines.take(length as usize).collect()
}

/// Bytes that nothing makes smaller.
pub fn noise(length: u64, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; length as usize];
    ChaCha12Rng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

/// Writes into a disk image.
pub fn write(disk: &Path, bytes: &[u8], offset: u64) {
    OpenOptions::new().write(true).open(disk).unwrap().write_all_at(bytes, offset).unwrap();
}

/// What was sent, and what went over the line for it, as `node` shows it.
pub fn traffic(node: &Node) -> (u64, u64) {
    let shown = node.cli(["vm", "show", WORK]);
    (number(&shown["sent_bytes"]), number(&shown["wire_bytes"]))
}

/// What a change costs until a point has it.
fn cost(p: &Node, r: &Node, change: impl FnOnce()) -> (u64, u64) {
    let before = traffic(p);
    change();
    goes_on(r, WORK);
    let after = traffic(p);
    (after.0 - before.0, after.1 - before.1)
}

#[test]
fn only_what_changed_travels_and_compressed_where_it_gets_smaller() {
    let r = replicas().node("r1").start();
    let p = primaries(&["p1"]).start();
    join_up(&p, &r);
    let (p1, r1) = (p.first(), r.first());
    let folder = VmFolder::new(WORK).disk("vda", 3 * PART, 1).create_in(&p1.vm_path()).unwrap();
    let disk = folder.join("vda.raw");
    OpenOptions::new().write(true).truncate(true).open(&disk).unwrap().set_len(3 * PART).unwrap();
    write(&disk, &text(PART, 1), 0);
    write(&disk, &noise(PART, 2), PART);
    found(p1, WORK);
    enable(p1, WORK);
    goes_on(r1, WORK);

    let (sent, wire) = traffic(p1);
    assert_eq!(sent, 2 * PART, "a hole is not sent");
    assert!((PART..PART + PART / 2).contains(&wire), "noise as it is, text as a part of it: {wire}");
    let (_, received) = traffic(r1);
    assert!(wire.abs_diff(traffic(p1).1.min(received)) < OPENING, "{wire} sent, {received} received");

    // A byte in each of 20 blocks: blocks of 4 KiB travel, each by itself.
    let (sent, wire) = cost(p1, r1, || (0..20).for_each(|at| write(&disk, b"!", PART + at * 100 * 4096 + 7)));
    assert_eq!(sent, 20 * 4096);
    assert!(wire < sent * 115 / 100, "{wire} bytes for {sent}");
    // Zeroes over text, and the same bytes once more over noise.
    let same = fs::read(&disk).unwrap()[PART as usize..].to_vec();
    let (sent, wire) = cost(p1, r1, || {
        write(&disk, &vec![0; MIB as usize], 0);
        write(&disk, &same, PART);
    });
    assert_eq!(sent, 0, "zeroes are no content, and what did not change does not travel");
    assert!(wire < OPENING, "{wire}");

    p1.cli(["settings", "set", "compression=off", "--wait"]);
    let (sent, wire) = cost(p1, r1, || write(&disk, &text(MIB, 3), 0));
    assert!(sent == MIB && wire >= MIB, "{wire} bytes for {sent}, uncompressed");
    p1.cli(["settings", "set", "compression=auto", "--wait"]);
    let (sent, wire) = cost(p1, r1, || write(&disk, &text(MIB, 4), 0));
    assert!(sent == MIB && wire < MIB / 2, "{wire} bytes for {sent}, compressed");

    // Counters outlive the agent.
    let before = traffic(p1);
    p1.kill_agent();
    p.start_agents();
    p1.wait_ready();
    eventually(LONG, "the counters to be there", || {
        let shown = p1.try_cli(["vm", "show", WORK]).map_err(|failure| failure.to_string())?;
        let now = (number(&shown["sent_bytes"]), number(&shown["wire_bytes"]));
        if now.0 >= before.0 && now.1 + OPENING >= before.1 { Ok(()) } else { Err(format!("{now:?} {before:?}")) }
    });
    goes_on(r1, WORK);
    let to = r.folder().join("lean");
    export(r1, WORK, None, &to).unwrap();
    assert!(fs::read(to.join("vda.raw")).unwrap() == fs::read(&disk).unwrap(), "the replica is the disk");
}
