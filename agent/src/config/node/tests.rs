use super::*;

/// Its first line is a comment, and the lines of its keys are named below.
const EXAMPLE: &str = include_str!("example.toml");

fn parse(text: &str) -> Result<NodeConfig, Faults> {
    NodeConfig::parse(Path::new("node.toml"), text)
}

/// The faults of `text` as (line, field).
fn faults(text: &str) -> Vec<(usize, String)> {
    let faults = parse(text).expect_err("must be refused").faults;
    faults.into_iter().map(|fault| (fault.line, fault.refusal.field.unwrap_or_default())).collect()
}

fn at(line: usize, field: &str) -> (usize, String) {
    (line, field.to_owned())
}

#[test]
fn the_designs_example_resolves_with_its_defaults() {
    let config = parse(EXAMPLE).unwrap();
    assert_eq!(config.data_listen, "0.0.0.0:7444".parse().unwrap());
    assert_eq!(config.data_advertise, "10.0.0.11:7444".parse().unwrap());
    assert_eq!(config.testing.interval, Some(Duration::from_millis(200)));
    assert_eq!(config.testing.point_interval, Some(Duration::from_millis(900)));
    let notice = config.testing.notice().unwrap();
    assert!(notice.contains("200 ms") && notice.contains("900 ms"), "{notice}");
    assert_eq!(config.storage[0].name.as_str(), "default");
    let plain = parse(&EXAMPLE.replace("0.0.0.0", "10.0.0.9").replace("advertise = \"10.0.0.11:7443\"\n", "")).unwrap();
    assert_eq!(plain.advertise, "10.0.0.9:7443".parse().unwrap());
    assert_eq!(
        parse(&EXAMPLE.replace("interval_ms = 200", "").replace("point_interval_ms = 900", ""))
            .unwrap()
            .testing
            .notice(),
        None
    );
}

#[test]
fn every_fault_is_told_at_once_with_its_line() {
    let text = EXAMPLE
        .replace("node = \"r1\"", "node = \"-r1\"")
        .replace("data_dir", "data_dri")
        .replace("\"directory\"", "\"libvirt\"")
        .replace("shared = false", "shared = true")
        .replace("200", "\"fast\"");
    let expected = [
        at(1, "data_dir"),
        at(2, "node"),
        at(3, "data_dri"),
        at(9, "vm_service.kind"),
        at(14, "storage.shared"),
        at(16, "testing.interval_ms"),
    ];
    assert_eq!(faults(&text), expected);
    let shown = parse(&text).unwrap_err().to_string();
    assert_eq!(shown.lines().count(), 6);
    assert!(shown.contains("node.toml:9: vm_service.kind: 'libvirt' comes later; use kind = \"directory\""), "{shown}");
    assert!(shown.contains("did you mean data_dir?"), "{shown}");
}

#[test]
fn an_unspecified_listen_needs_an_address_to_dial() {
    assert_eq!(faults(&EXAMPLE.replace("advertise = \"10.0.0.11:7443\"", "")), [at(1, "advertise")]);
    assert_eq!(faults(&EXAMPLE.replace("10.0.0.11:7443", "0.0.0.0:7443")), [at(5, "advertise")]);
    assert_eq!(faults(&EXAMPLE.replace("10.0.0.11:7443", "10.0.0.11")), [at(5, "advertise")]);
    assert_eq!(faults(&EXAMPLE.replace("0.0.0.0:7443", "0.0.0.0:65535")), [at(4, "listen")]);
    assert_eq!(faults(&EXAMPLE.replace("witness", "data_listen = \"0.0.0.0:7443\"\nwitness"))[0], at(7, "data_listen"));
}

#[test]
fn a_witness_hosts_nothing() {
    let text = EXAMPLE.replace("witness = false", "witness = true");
    assert_eq!(faults(&text), [at(8, "vm_service"), at(11, "storage")]);
    let head = &text[..text.find("[vm_service]").unwrap()];
    assert!(parse(head).unwrap().witness);
    assert_eq!(faults(&head.replace("true", "false")), [at(1, "vm_service")]);
}

#[test]
fn folders_that_would_mix_are_told_with_both_values() {
    let inside = parse(&EXAMPLE.replace("/srv/replicas", "/var/lib/landfall/vms/x")).unwrap_err().to_string();
    assert!(inside.contains("/var/lib/landfall/vms/x lies within vm_service.path /var/lib/landfall/vms"), "{inside}");
    let twice = EXAMPLE.replace("[testing]", "[[storage]]\nname = \"default\"\npath = \"/srv/replicas\"\n[testing]");
    let twice = parse(&twice).unwrap_err().to_string();
    assert!(twice.contains(":16: storage.name: 'default' is taken by the storage on line 12"), "{twice}");
    assert!(twice.contains("/srv/replicas is also storage 'default' /srv/replicas"), "{twice}");
    assert_eq!(faults(&EXAMPLE.replace("/srv/replicas", "srv/replicas")), [at(13, "storage.path")]);
    assert_eq!(faults(&EXAMPLE.replace("\"/var/lib/landfall\"", "\"/srv/replicas/own\"")), [at(3, "data_dir")]);
    let long = format!("/{}", "x".repeat(120));
    assert_eq!(faults(&EXAMPLE.replace("/run/landfall/landfall.sock", &long)), [at(6, "socket")]);
}

#[test]
fn syntax_errors_are_told_beside_the_other_faults() {
    let text = EXAMPLE.replace("node = \"r1\"", "node = r1").replace("shared = false", "shraed = false");
    let found = faults(&text);
    assert!(found.contains(&at(2, "")) && found.contains(&at(14, "storage.shraed")), "{found:?}");
    assert!(!found.iter().any(|(_, field)| field == "node"), "{found:?}");
    assert_eq!(faults(&EXAMPLE.replace("witness = false", "witness = false\nwitness = false"))[0].0, 8);
}

#[test]
fn no_text_makes_the_parser_panic() {
    for end in 0..EXAMPLE.len() {
        _ = parse(&EXAMPLE[..end]);
        let mut bytes = EXAMPLE.as_bytes().to_vec();
        bytes[end] = b'[';
        _ = parse(&String::from_utf8(bytes).unwrap());
    }
}

#[test]
fn a_file_that_cannot_be_read_is_a_fault_of_its_own() {
    let refusal: Refusal = NodeConfig::load(Path::new("/does/not/exist.toml")).unwrap_err().into();
    assert!(refusal.message.contains("/does/not/exist.toml:1:"), "{refusal}");
}
