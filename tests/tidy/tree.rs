//! The files of the repository, read once.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

/// Folders that hold nothing of the repository's own.
const SKIPPED: [&str; 3] = ["target", ".git", "node_modules"];

/// Text files by their path from the root, with `/` between folders.
pub struct Tree(BTreeMap<String, String>);

/// A breach of a rule.
#[derive(Debug)]
pub struct Trespass {
    path: String,
    line: usize,
    why: String,
}

impl fmt::Display for Trespass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.why)
    }
}

impl Trespass {
    /// A breach in line `line` (from 1; 0 for the file as a whole).
    pub fn new(path: &str, line: usize, why: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, why: why.into() }
    }
}

impl Tree {
    /// The repository that this test was built from.
    pub fn here() -> Self {
        let mut files = BTreeMap::new();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        read_folder(root, "", &mut files);
        assert!(files.contains_key("Cargo.toml"), "{} is not the repository", root.display());
        Self(files)
    }

    /// A tree of a few files, for the rules' own tests.
    pub fn of<const N: usize>(files: [(&str, &str); N]) -> Self {
        Self(files.into_iter().map(|(path, text)| (path.to_owned(), text.to_owned())).collect())
    }

    /// The text of one file.
    pub fn text(&self, path: &str) -> Option<&str> {
        self.0.get(path).map(String::as_str)
    }

    /// Every file.
    pub fn files(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// The Rust sources whose path begins with `folder`.
    pub fn sources<'a>(&'a self, folder: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.files().filter(move |(path, _)| path.starts_with(folder) && path.ends_with(".rs"))
    }
}

fn read_folder(folder: &Path, prefix: &str, files: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && !SKIPPED.contains(&name.as_str()) => {
                read_folder(&entry.path(), &format!("{path}/"), files);
            }
            // What is no text (images, golden files) has no rules. The lock file is cargo's.
            Ok(kind) if kind.is_file() && name != "Cargo.lock" && name != ".git" => {
                if let Ok(text) = fs::read_to_string(entry.path()) {
                    files.insert(path, text);
                }
            }
            _ => {}
        }
    }
}

/// The part of a source before its own tests.
pub fn without_tests(text: &str) -> &str {
    let tests = text.match_indices("#[cfg(test)]").find(|(at, mark)| {
        let rest = text[at + mark.len()..].trim_start();
        rest.starts_with("mod ") && rest.lines().next().is_some_and(|line| line.trim_end().ends_with('{'))
    });
    tests.map_or(text, |(at, _)| &text[..at])
}

/// The lines of a text with their numbers, comments taken out.
pub fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().filter_map(|(index, line)| {
        let code = line.find("//").map_or(line, |at| &line[..at]);
        (!code.trim().is_empty()).then_some((index + 1, code))
    })
}

/// Whether `line` has `word` with no letter, digit or underscore at either side of it.
pub fn names(line: &str, word: &str) -> bool {
    let inside = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        !line[..at].chars().next_back().is_some_and(inside)
            && !line[at + word.len()..].chars().next().is_some_and(inside)
    })
}
