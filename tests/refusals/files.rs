//! A node's file, port, socket and data folder.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use landfall_kit::process::{Answer, Node, eventually};

use crate::{LONG, cluster, failures};

/// Starts a second agent from a copy of `node`'s file, changed; it must end by itself. Returns how.
fn second_agent(node: &Node, change: impl FnOnce(&mut toml::Table)) -> Answer {
    let mut config: toml::Table = fs::read_to_string(node.config_file()).unwrap().parse().unwrap();
    change(&mut config);
    let file = node.folder().join("second.toml");
    fs::write(&file, config.to_string()).unwrap();
    node.call_within(LONG, ["agent", "--config", &file.to_string_lossy()])
}

fn set(config: &mut toml::Table, key: &str, value: &Path) {
    config.insert(key.to_owned(), value.to_string_lossy().into_owned().into());
}

/// Every file below `folder` with its content's hash.
fn content(folder: &Path) -> BTreeMap<String, blake3::Hash> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(content(&path));
        } else if path.is_file() {
            found.insert(path.display().to_string(), blake3::hash(&fs::read(&path).unwrap()));
        }
    }
    found
}

#[test]
fn an_agents_file_port_socket_and_folder() {
    let r = cluster("R", &["r1"]).start();
    let node = r.first();
    every_fault_of_a_file_at_once(node);

    let answer = second_agent(node, |_| ());
    let found = failures(&answer);
    assert_eq!(
        (answer.code, found[0].0.as_str(), found[0].1.as_str()),
        (Some(3), "socket_in_use", "socket"),
        "{answer}"
    );
    assert!(found[0].2.contains(&*node.socket().to_string_lossy()), "{answer}");

    let other = node.folder().join("other");
    let answer = second_agent(node, |config| {
        set(config, "socket", &node.folder().join("t"));
        set(config, "data_dir", &other);
    });
    let found = failures(&answer);
    assert_eq!((answer.code, found[0].1.as_str()), (Some(1), "listen"), "{answer}");
    assert!(found[0].2.contains(&node.address()), "the value is named: {answer}");
    // The first one is none the worse for it.
    assert_eq!(node.cli(["cluster", "status"])["quorate"], true);
    assert!(node.exit_status().is_none());

    foreign_data_folder(node);
    corrupted_store(node);
}

fn every_fault_of_a_file_at_once(node: &Node) {
    let file = node.folder().join("bad.toml");
    let text = fs::read_to_string(node.config_file()).unwrap();
    let text = format!("witnes = true\nfqdn = \"not a name\"\n{text}");
    fs::write(&file, &text).unwrap();
    let path = file.to_string_lossy().into_owned();
    let before = content(&node.vm_path());
    for call in [["config", "check", &path], ["agent", "--config", &path]] {
        let answer = node.call_within(LONG, call);
        assert_eq!(answer.code, Some(2), "{answer}");
        let found: Vec<_> = failures(&answer);
        let told: Vec<(&str, &str)> = found.iter().map(|(code, field, _)| (code.as_str(), field.as_str())).collect();
        assert_eq!(told, [("unknown_key", "witnes"), ("invalid_value", "fqdn")], "{answer}");
        assert!(found[0].2.contains(&format!("{path}:1:")) && found[1].2.contains(&format!("{path}:2:")), "{answer}");
        assert!(found[1].2.contains("not a name"), "{answer}");
        assert!(answer.stderr.contains("did you mean witness?"), "{answer}");
    }
    assert_eq!(content(&node.vm_path()).len(), before.len());
    let missing = node.call(["config", "check", "/nowhere/at/all.toml"]);
    assert_eq!((missing.code, failures(&missing)[0].0.as_str()), (Some(2), "unreadable_file"), "{missing}");
    let good = node.config_file().to_string_lossy().into_owned();
    assert_eq!(node.call(["config", "check", &good]).code, Some(0));
}

fn foreign_data_folder(node: &Node) {
    node.lose();
    let before = content(&node.data_dir());
    let answer = second_agent(node, |config| _ = config.insert("node".to_owned(), "r7".into()));
    let found = failures(&answer);
    assert_eq!(
        (answer.code, found[0].0.as_str(), found[0].1.as_str()),
        (Some(3), "foreign_data_folder", "data_dir"),
        "{answer}"
    );
    assert!(found[0].2.contains("'r1'") && found[0].2.contains("'r7'"), "{answer}");
    assert_eq!(content(&node.data_dir()), before);
    node.start();
    node.wait_ready();
    eventually(LONG, "the node to be itself again", || node.cli(["cluster", "status"])["quorate"] == true);
}

fn corrupted_store(node: &Node) {
    node.lose();
    let db = node.data_dir().join("store").join("db");
    let length = fs::metadata(&db).unwrap().len() as usize;
    let rubbish: Vec<u8> = (0..length).map(|at| (at * 31 + at / 251) as u8).collect();
    fs::write(&db, &rubbish).unwrap();
    let before = content(&node.data_dir());
    for _ in 0..2 {
        let answer = second_agent(node, |_| ());
        let found = failures(&answer);
        assert_eq!(
            (answer.code, found[0].0.as_str(), found[0].1.as_str()),
            (Some(1), "store_damaged", "data_dir"),
            "{answer}"
        );
        let store = node.data_dir().join("store");
        let store = store.display();
        assert!(found[0].2.contains(&store.to_string()), "{answer}");
        for command in [
            format!("mv {store} {store}.damaged"),
            "landfall token create --replaces r1".to_owned(),
            "landfall cluster join TOKEN".to_owned(),
        ] {
            assert!(answer.stderr.contains(&command), "{command}: {answer}");
        }
        assert_eq!(content(&node.data_dir()), before, "no file is touched");
    }
}
