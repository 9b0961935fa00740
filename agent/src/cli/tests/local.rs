//! What runs in this process: the hooks, the help, the completions.

use landfall_proto::Class;

use super::*;

fn hooked(faults: Vec<Refusal>, arguments: &[&str]) -> (Vec<String>, Done) {
    let hooks = Remembered { faults, ..Remembered::default() };
    let (out, err) = (Stream::default(), Stream::default());
    let code = start(Reader::Script, "", arguments, &hooks, &out, &err);
    (hooks.calls.into_inner().unwrap(), Done { code, out: out.text(), err: err.text() })
}

#[test]
fn daemons_and_the_demo_are_the_hooks() {
    for (arguments, call) in [
        (&["agent", "--config", "r1.toml"][..], "agent r1.toml"),
        (&["vm-service", "--config", "r1.toml"], "vm-service r1.toml"),
        (&["demo"], "Demo { disk: None, fast: false }"),
        (&["demo", "--disk", "a.qcow2", "--fast"], "Demo { disk: Some(\"a.qcow2\"), fast: true }"),
        (&["guest", "write", "--rate", "5", "-o", "x"], "guest [\"write\", \"--rate\", \"5\", \"-o\", \"x\"]"),
    ] {
        let (calls, done) = hooked(vec![], arguments);
        assert_eq!((calls, done.code, done.err.as_str()), (vec![call.to_owned()], 0, ""), "{arguments:?}");
    }
}

#[test]
fn every_fault_of_a_file_is_told_at_once() {
    let faults = vec![
        Refusal::new(Class::Usage, "unknown_key", "line 3: there is no key 'nod'").field("nod"),
        Refusal::invalid("listen", "x", "use ADDRESS:PORT"),
    ];
    let (_, done) = hooked(faults, &["config", "check", "r1.toml"]);
    assert_eq!((done.code, done.out.as_str(), done.err.lines().count()), (2, "", 2));
    for line in done.err.lines() {
        assert!(serde_json::from_str::<serde_json::Value>(line).unwrap()["error"]["code"].is_string());
    }
    let (calls, done) = hooked(vec![], &["config", "check", "r1.toml"]);
    assert_eq!((calls[0].as_str(), done.out.as_str()), ("config check r1.toml", "r1.toml: no fault found\n"));
    let (_, done) = hooked(vec![], &["config", "check", "r1.toml", "-o", "json"]);
    assert_eq!(done.out, "{\"file\":\"r1.toml\",\"valid\":true}\n");
}

#[test]
fn help_is_data_and_that_of_set_lists_the_settings() {
    let (_, done) = hooked(vec![], &["settings", "set", "--help"]);
    assert_eq!((done.code, done.err.as_str()), (0, ""));
    assert!(done.out.contains("node_down_after  2s to 1h, default 5s"), "{}", done.out);
    let (_, done) = hooked(vec![], &["--help"]);
    assert!(done.out.contains("Exit codes: 0 done") && !done.out.contains("guest"), "{}", done.out);
    assert_eq!(hooked(vec![], &["--version"]).1.out, format!("landfall {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn completions_know_every_noun() {
    let (_, done) = hooked(vec![], &["completions", "bash"]);
    assert_eq!(done.code, 0);
    assert!(done.out.contains("authorization") && done.out.contains("--trust-group"));
}
