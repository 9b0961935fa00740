//! What the sources of this repository keep to, beyond what the compiler and clippy see.
//!
//! Each rule is a function of the files, with a test of its own that plants a breach. Files that do not exist yet break no
//! rule.

mod rules;
mod tree;

use tree::{Tree, Trespass};

/// Fails with every breach at once, one a line.
#[track_caller]
fn hold(breaches: &[Trespass]) {
    let lines: Vec<String> = breaches.iter().map(Trespass::to_string).collect();
    assert!(lines.is_empty(), "\n{}\n", lines.join("\n"));
}

/// A tree with one file.
fn planted(path: &str, text: &str) -> Tree {
    Tree::of([(path, text)])
}

#[test]
fn imports_only_go_down() {
    hold(&rules::imports(&Tree::here()));
    assert_eq!(rules::imports(&planted("proto/src/a.rs", "use landfall_store::kv;")).len(), 1);
    assert_eq!(rules::imports(&planted("store/src/a.rs", "fn f() { landfall_agent::run() }")).len(), 1);
    assert_eq!(
        rules::imports(&planted("store/Cargo.toml", "[dependencies]\nlandfall-agent.workspace = true")).len(),
        1
    );
    assert_eq!(rules::imports(&planted("agent/src/a.rs", "use landfall_kit::sim;")).len(), 1);
    assert!(rules::imports(&planted("agent/src/a.rs", "use landfall_store::kv;")).is_empty());
}

#[test]
fn no_source_file_is_longer_than_450_lines_without_its_tests() {
    hold(&rules::lengths(&Tree::here()));
    let long = "//! A file.\n".repeat(451);
    assert_eq!(rules::lengths(&planted("agent/src/a.rs", &long)).len(), 1);
    assert!(rules::lengths(&planted("agent/tests/a.rs", &long)).is_empty());
    let tested = format!("{}#[cfg(test)]\nmod tests {{\n{long}}}\n", "//! A file.\n".repeat(449));
    assert!(rules::lengths(&planted("agent/src/a.rs", &tested)).is_empty());
}

#[test]
fn nothing_is_left_for_later() {
    hold(&rules::unfinished(&Tree::here()));
    for mark in ["TO\u{44}O", "FIX\u{4d}E", "unimple\u{6d}ented!()", "to\u{64}o!()"] {
        assert_eq!(rules::unfinished(&planted("agent/src/a.rs", mark)).len(), 1, "{mark}");
    }
}

#[test]
fn decisions_take_everything_as_arguments() {
    hold(&rules::decisions(&Tree::here()));
    for word in
        ["tokio::spawn(f)", "use std::time::Instant;", "HashMap::new()", "std::fs::read(p)", "SystemTime::now()"]
    {
        assert_eq!(rules::decisions(&planted("agent/src/decide/a.rs", word)).len(), 1, "{word}");
    }
    assert!(rules::decisions(&planted("agent/src/drive/a.rs", "use tokio::spawn;")).is_empty());
    assert!(rules::decisions(&planted("agent/src/decide/a.rs", "// no tokio here")).is_empty());
}

#[test]
fn each_unusual_dependency_is_named_in_one_place() {
    hold(&rules::single_places(&Tree::here()));
    assert_eq!(rules::single_places(&planted("store/src/state/a.rs", "use openraft::Raft;")).len(), 1);
    assert_eq!(rules::single_places(&planted("agent/src/a.rs", "bincode::serde::encode()")).len(), 1);
    assert!(rules::single_places(&planted("store/src/consensus/a.rs", "use openraft::Raft;")).is_empty());
    assert!(rules::single_places(&planted("proto/src/codec.rs", "use bincode::config;")).is_empty());
}

#[test]
fn one_file_writes_qcow2() {
    hold(&rules::qcow2_writers(&Tree::here()));
    let writer = "use imago::FormatCreateBuilder;";
    let two =
        Tree::of([("agent/src/a.rs", writer), ("agent/src/b.rs", writer), ("agent/src/c.rs", "use imago::Mapping;")]);
    assert_eq!(rules::qcow2_writers(&two).len(), 2);
    assert!(rules::qcow2_writers(&planted("agent/src/a.rs", writer)).is_empty());
}

#[test]
fn no_file_names_a_place_on_somebodys_machine() {
    hold(&rules::machine_paths(&Tree::here()));
    assert_eq!(rules::machine_paths(&planted("README.md", concat!("see /wo", "rk/notes"))).len(), 1);
    assert_eq!(rules::machine_paths(&planted("a.rs", concat!("\"/ho", "me/me\""))).len(), 1);
    assert!(rules::machine_paths(&planted("a.rs", "join(\"net/work/x\")")).is_empty());
}

#[test]
fn the_readme_names_the_rust_version_of_the_workspace() {
    hold(&rules::rust_version(&Tree::here()));
    let manifest = ("Cargo.toml", "rust-version = \"1.89\"");
    assert_eq!(rules::rust_version(&Tree::of([manifest, ("README.md", "Needs Rust 1.88.")])).len(), 1);
    assert_eq!(rules::rust_version(&Tree::of([manifest, ("README.md", "Needs Rust.")])).len(), 1);
    assert!(
        rules::rust_version(&Tree::of([manifest, ("README.md", "Needs Rust (rustup, 1.89 or later).")])).is_empty()
    );
}

#[test]
fn every_package_takes_the_workspaces_lints_and_every_exception_has_a_reason() {
    hold(&rules::lints(&Tree::here()));
    assert_eq!(rules::lints(&planted("store/Cargo.toml", "[package]\nname = \"x\"")).len(), 1);
    assert_eq!(rules::lints(&planted("store/src/a.rs", "#[allow(clippy::panic)]\nfn f() {}")).len(), 1);
    assert!(rules::lints(&planted("a/src/b.rs", "#![allow(\n  clippy::panic,\n  reason = \"r\"\n)]")).is_empty());
    assert_eq!(rules::lints(&planted("clippy.toml", "too-many-lines-threshold = 100")).len(), 1);
}

#[test]
fn modules_say_what_they_are_and_bear_the_name_of_a_thing() {
    hold(&rules::modules(&Tree::here()));
    assert_eq!(rules::modules(&planted("agent/src/ut\u{69}l.rs", "//! Things.")).len(), 1);
    assert_eq!(rules::modules(&planted("agent/src/a.rs", "fn f() {}")).len(), 1);
    assert!(rules::modules(&planted("agent/src/a.rs", "//! A.\nfn f() {}")).is_empty());
}
