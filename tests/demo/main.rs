//! The whole story, as the first command of the README tells it: `landfall demo` checks each of its steps itself, so that
//! its exit code is the verdict. What is looked at here is what it leaves behind.

use std::process::Command;

/// Processes that were started out of `folder`, by their command lines.
fn started_in(folder: &str) -> Vec<String> {
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let lines = processes.flatten().filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).filter(|line| line.contains(folder)).collect()
}

#[test]
fn the_demo_holds_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let demo = Command::new(env!("CARGO_BIN_EXE_landfall"))
        .args(["demo", "--fast"])
        .env("TMPDIR", folder.path())
        .output()
        .unwrap();
    let (told, failed) = (String::from_utf8_lossy(&demo.stdout), String::from_utf8_lossy(&demo.stderr));
    assert!(demo.status.success(), "{told}\n{failed}");
    for step in 1..=14 {
        assert!(told.contains(&format!("\n{step}. ")), "step {step} is not told:\n{told}");
    }
    // Wherever the lines of a narrow page end.
    let words: Vec<&str> = told.split_whitespace().collect();
    assert!(words.join(" ").contains("nothing was sent again"), "the second copy is not told of:\n{told}");
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().flatten().map(|entry| entry.path()).collect();
    assert!(left.is_empty(), "files are left: {left:?}");
    let running = started_in(&folder.path().to_string_lossy());
    assert!(running.is_empty(), "processes are left: {running:#?}");
}
