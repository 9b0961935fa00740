//! The rules. Each returns its breaches.

use super::tree::{Tree, Trespass, code_lines, names, without_tests};

/// The most lines of a source, its own tests not counted.
const LINES_MAX: usize = 450;
/// The most lines of a function, which clippy counts.
const FUNCTION_LINES_MAX: usize = 70;

/// Each layer and what it must not know.
const LAYERS: [(&str, &[&str]); 4] = [
    ("proto/", &["landfall_store", "landfall_agent", "landfall_kit"]),
    ("store/", &["landfall_agent", "landfall_kit"]),
    ("agent/", &["landfall_kit"]),
    ("tests/kit/", &["landfall_agent"]),
];

/// Crates that one place wraps, so that they can be replaced there, and that place.
const SINGLE_PLACES: [(&str, &str); 2] = [("openraft", "store/src/consensus"), ("bincode", "proto/src/codec.rs")];

/// What a decision must not name: it is a plain function of its arguments.
const NOT_IN_DECISIONS: [&str; 12] = [
    "tokio",
    "quinn",
    "Instant",
    "SystemTime",
    "HashMap",
    "HashSet",
    "std::fs",
    "std::net",
    "std::process",
    "std::thread",
    "rand::rng",
    "async",
];

/// What writes an image through imago; reading one needs none of it.
const QCOW2_WRITING: [&str; 3] = ["FormatCreateBuilder", "StorageCreateOptions", "PreallocateMode"];

/// Names of modules that could hold anything.
const NAMELESS: [&str; 6] = ["util", "utils", "helper", "helpers", "manager", "common"];

pub fn imports(tree: &Tree) -> Vec<Trespass> {
    let mut breaches = Vec::new();
    for (layer, above) in LAYERS {
        for (path, text) in tree.sources(layer) {
            // The tests of a layer may use the kit, which knows no agent: a development dependency leads nowhere up.
            let code = if is_test(path) { text } else { without_tests(text) };
            let forbidden = above.iter().filter(|word| !is_test(path) || **word != "landfall_kit");
            for word in forbidden {
                let found = code_lines(code).filter(|(_, line)| names(line, word));
                breaches
                    .extend(found.map(|(number, _)| Trespass::new(path, number, format!("{word} is above {layer}"))));
            }
        }
        let manifest = format!("{layer}Cargo.toml");
        let text = tree.text(&manifest).unwrap_or_default();
        let dependencies = text.split("[dev-dependencies]").next().unwrap_or_default();
        for word in above.iter().map(|word| word.replace('_', "-")).filter(|word| dependencies.contains(word)) {
            breaches.push(Trespass::new(&manifest, 0, format!("{word} is above {layer}")));
        }
    }
    breaches
}

pub fn lengths(tree: &Tree) -> Vec<Trespass> {
    let sources = tree.sources("").filter(|(path, _)| !is_test(path));
    let lines = sources.map(|(path, text)| (path, without_tests(text).lines().count()));
    lines
        .filter(|(_, lines)| *lines > LINES_MAX)
        .map(|(path, lines)| Trespass::new(path, lines, format!("longer than {LINES_MAX} lines")))
        .collect()
}

pub fn unfinished(tree: &Tree) -> Vec<Trespass> {
    // Put together here, so that this file does not break its own rule.
    let marks = [["TO", "DO"], ["FIX", "ME"], ["unimple", "mented!"], ["to", "do!"]].map(|parts| parts.concat());
    let mut breaches = Vec::new();
    for (path, text) in tree.sources("") {
        for (index, line) in text.lines().enumerate() {
            let found = marks.iter().find(|mark| line.contains(mark.as_str()));
            breaches.extend(found.map(|mark| Trespass::new(path, index + 1, format!("{mark} is left for later"))));
        }
    }
    breaches
}

pub fn decisions(tree: &Tree) -> Vec<Trespass> {
    let mut breaches = Vec::new();
    for (path, text) in tree.sources("agent/src/decide").filter(|(path, _)| !is_test(path)) {
        for (number, line) in code_lines(without_tests(text)) {
            let found = NOT_IN_DECISIONS.iter().find(|word| names(line, word));
            breaches.extend(found.map(|word| Trespass::new(path, number, format!("a decision names {word}"))));
        }
    }
    breaches
}

pub fn single_places(tree: &Tree) -> Vec<Trespass> {
    let mut breaches = Vec::new();
    for (word, place) in SINGLE_PLACES {
        for (path, text) in
            tree.sources("").filter(|(path, _)| !path.starts_with(place) && !path.starts_with("tests/tidy"))
        {
            let found = code_lines(text).find(|(_, line)| names(line, word) && !line.contains('"'));
            breaches.extend(found.map(|(number, _)| Trespass::new(path, number, format!("only {place} names {word}"))));
        }
    }
    breaches
}

pub fn qcow2_writers(tree: &Tree) -> Vec<Trespass> {
    let writes = |text: &str| {
        let code = without_tests(text);
        code_lines(code).any(|(_, line)| names(line, "imago")) && QCOW2_WRITING.iter().any(|word| code.contains(word))
    };
    let product = tree.files().filter(|(path, _)| path.ends_with(".rs") && path.contains("src/") && !is_test(path));
    let writers: Vec<&str> = product.filter(|(_, text)| writes(text)).map(|(path, _)| path).collect();
    let breach = |path: &&str| Trespass::new(path, 0, format!("writes qcow2, as others do: {}", writers.join(", ")));
    if writers.len() > 1 { writers.iter().map(breach).collect() } else { Vec::new() }
}

pub fn machine_paths(tree: &Tree) -> Vec<Trespass> {
    let places =
        [["/wo", "rk/"], ["/ho", "me/"], ["/Us", "ers/"], ["/ro", "ot/"], ["/tmp/", "wt"]].map(|parts| parts.concat());
    let mut breaches = Vec::new();
    for (path, text) in tree.files() {
        for (index, line) in text.lines().enumerate() {
            let absolute = |at: usize| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-}".contains(c));
            let found = places.iter().find(|place| line.match_indices(place.as_str()).any(|(at, _)| absolute(at)));
            breaches.extend(found.map(|place| Trespass::new(path, index + 1, format!("names {place}"))));
        }
    }
    breaches
}

pub fn rust_version(tree: &Tree) -> Vec<Trespass> {
    let manifest = tree.text("Cargo.toml").unwrap_or_default();
    let Some(version) = manifest.split("rust-version = \"").nth(1).and_then(|rest| rest.split('"').next()) else {
        return vec![Trespass::new("Cargo.toml", 0, "no rust-version")];
    };
    let Some(readme) = tree.text("README.md") else { return Vec::new() };
    let of_rust = readme.lines().filter(|line| names(line, "Rust") || names(line, "rustc"));
    let words = of_rust.flat_map(|line| line.split(|c: char| !c.is_ascii_digit() && c != '.'));
    let versions: Vec<&str> =
        words.map(|word| word.trim_end_matches('.')).filter(|word| word.starts_with("1.")).collect();
    match versions.iter().find(|named| **named != version) {
        Some(other) => vec![Trespass::new("README.md", 0, format!("names Rust {other}, Cargo.toml {version}"))],
        None if versions.is_empty() => vec![Trespass::new("README.md", 0, format!("does not name Rust {version}"))],
        None => Vec::new(),
    }
}

pub fn lints(tree: &Tree) -> Vec<Trespass> {
    let mut breaches = Vec::new();
    for (path, text) in tree.files().filter(|(path, _)| path.ends_with("Cargo.toml")) {
        let squeezed = text.replace(' ', "");
        if squeezed.contains("[package]") && !squeezed.contains("[lints]\nworkspace=true") {
            breaches.push(Trespass::new(path, 0, "does not take the workspace's lints"));
        }
    }
    for (path, text) in tree.sources("").filter(|(path, _)| !path.starts_with("tests/tidy")) {
        for (at, mark) in text.match_indices("#[allow(").chain(text.match_indices("#![allow(")) {
            let attribute = text[at + mark.len()..].split(")]").next().unwrap_or_default();
            if !attribute.contains("reason") {
                breaches.push(Trespass::new(path, text[..at].lines().count(), "an exception without its reason"));
            }
        }
    }
    if let Some(clippy) = tree.text("clippy.toml") {
        let limit =
            clippy.split("too-many-lines-threshold = ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
        if limit.is_none_or(|limit: usize| limit > FUNCTION_LINES_MAX) {
            breaches.push(Trespass::new("clippy.toml", 0, format!("functions may pass {FUNCTION_LINES_MAX} lines")));
        }
    }
    breaches
}

pub fn modules(tree: &Tree) -> Vec<Trespass> {
    let mut breaches = Vec::new();
    for (path, text) in tree.sources("") {
        if let Some(part) = path.trim_end_matches(".rs").split('/').find(|part| NAMELESS.contains(part)) {
            breaches.push(Trespass::new(path, 0, format!("{part} says nothing")));
        }
        if !is_test(path) && !text.trim_start().starts_with("//!") {
            breaches.push(Trespass::new(path, 1, "does not say what it is"));
        }
    }
    breaches
}

/// Whether a source is one of tests as a whole.
fn is_test(path: &str) -> bool {
    path.starts_with("tests/") && !path.starts_with("tests/kit/src/")
        || path.contains("/tests/") && !path.starts_with("tests/kit/src/")
        || path.ends_with("/tests.rs")
        || path.ends_with("_tests.rs")
}
