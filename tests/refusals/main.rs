//! Bad input, given to real agents: each refusal names the field, the value and what would be right, and nothing was
//! changed by it (R12).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod files;
mod network;
mod policy;
mod trust;
mod vms;

use std::time::Duration;

use landfall_kit::process::{Cluster, ClusterBuilder, Failure, Node, NodeSpec};

/// For what is a matter of a moment.
const SOON: Duration = Duration::from_secs(30);
/// For what includes an election or an initial copy on a machine with other work.
const LONG: Duration = Duration::from_secs(60);

/// The program under test.
const LANDFALL: &str = env!("CARGO_BIN_EXE_landfall");

/// A cluster called `name` whose change sets are due at once.
fn cluster(name: &str, nodes: &[&str]) -> ClusterBuilder {
    let cap = format!("{}.contoso.test", name.to_lowercase());
    nodes.iter().fold(Cluster::of(LANDFALL, name, &cap), |cluster, node| cluster.spec(quick(node)))
}

fn quick(node: &str) -> NodeSpec {
    let mut spec = NodeSpec::new(node);
    spec.config.insert("testing".to_owned(), toml::toml! { interval_ms = 300 }.into());
    spec
}

/// Makes the call, which must be refused with this exit code, word and field, and with a remedy.
#[track_caller]
fn refused<'a>(
    node: &Node,
    call: impl IntoIterator<Item = &'a str>,
    (exit, code, field): (i32, &str, &str),
) -> Failure {
    let call: Vec<&str> = call.into_iter().collect();
    match node.try_cli(call.iter().copied()) {
        Ok(answer) => panic!("`{}` at {} was not refused: {answer}", call.join(" "), node.name()),
        Err(failure) => {
            assert_eq!(
                (failure.exit, failure.code.as_str(), failure.field.as_deref()),
                (exit, code, Some(field)),
                "{failure}"
            );
            assert!(failure.remedy.as_ref().is_some_and(|remedy| !remedy.is_empty()), "no remedy: {failure:?}");
            failure
        }
    }
}

/// Makes the call, one of whose arguments, `value`, the command line must refuse by itself.
#[track_caller]
fn mistyped<'a>(node: &Node, call: impl IntoIterator<Item = &'a str>, value: &str) -> Failure {
    match node.try_cli(call) {
        Ok(answer) => panic!("'{value}' was not refused: {answer}"),
        Err(failure) => {
            assert_eq!((failure.exit, failure.code.as_str()), (2, "usage"), "{failure}");
            assert!(failure.field.is_some(), "no field: {failure:?}");
            assert!(failure.message.contains(&format!("'{value}'")), "the value is named: {failure}");
            assert!(failure.message.contains("use ") || failure.remedy.is_some(), "no remedy: {failure:?}");
            failure
        }
    }
}

/// The failures that a call printed, one JSON object a line: exit code, and (code, field, message) each.
fn failures(answer: &landfall_kit::process::Answer) -> Vec<(String, String, String)> {
    let failure = |line: &str| {
        let value: serde_json::Value = serde_json::from_str(line).ok()?;
        let text = |key: &str| value["error"][key].as_str().unwrap_or_default().to_owned();
        assert!(!text("remedy").is_empty(), "no remedy: {line}");
        Some((text("code"), text("field"), text("message")))
    };
    answer.stderr.lines().filter_map(failure).collect()
}
