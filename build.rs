//! Packs the program's own relocations where the C library can unpack them, which takes half a megabyte off the binary.

use std::env::var;
use std::process::Command;

/// The first glibc that unpacks them; an older one would refuse to start the program.
const UNPACKS: (u32, u32) = (2, 36);

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Of another machine's C library nothing is known here.
    let native = var("TARGET").is_ok() && var("TARGET") == var("HOST");
    let elf = var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux");
    if native && elf && glibc().is_some_and(|version| version >= UNPACKS) {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// This machine's glibc, as `getconf` of the same package says it.
fn glibc() -> Option<(u32, u32)> {
    let output = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (major, minor) = text.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.split('.').next()?.parse().ok()?))
}
