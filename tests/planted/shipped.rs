//! The switch is in no build but that of the tests.

use std::process::Command;

/// What cargo says of the features that a build of the root package turns on.
fn features(kinds: &str) -> String {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    cargo.args(["tree", "--locked", "--offline", "-p", "landfall", "--prefix", "none", "-e", kinds]);
    let told = cargo.output().unwrap();
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    String::from_utf8_lossy(&told.stdout).into_owned()
}

#[test]
fn the_shipped_binary_has_no_switch() {
    let shipped = features("normal,build,features");
    assert!(shipped.contains("landfall-proto"), "{shipped}");
    assert!(!shipped.contains("feature \"planted\""), "{shipped}");
    assert!(features("all,features").contains("feature \"planted\""), "the look above could not fail");
}
