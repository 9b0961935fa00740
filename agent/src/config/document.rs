//! Reads a TOML document strictly, collecting every fault instead of stopping at the first.
//!
//! A [`Section`] is asked for the keys that it may have; what it was never asked for is an unknown key once it is
//! [finished](Section::finish). Getters answer `None` where the key is absent or wrong; a wrong one has been noted.

use std::cell::RefCell;
use std::ops::RangeInclusive;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use landfall_proto::refusal::quoted;
use landfall_proto::{Class, Refusal};
use toml::de::{DeTable, DeValue};

use crate::config::{Fault, Faults};

/// The most faults that are collected: a file of another kind must not fill the screen with thousands.
const FAULTS_MAX: usize = 100;

/// The text of a file and the faults found in it so far.
pub(crate) struct Reader<'t> {
    text: &'t str,
    faults: RefCell<Vec<Fault>>,
    broken_lines: Vec<usize>,
}

impl<'t> Reader<'t> {
    /// Parses `text`, lets `read` take what it wants from the top section, and returns that or every fault.
    pub(crate) fn read<T>(
        file: &Path,
        text: &'t str,
        read: impl for<'r> FnOnce(&Section<'r, 't>) -> Option<T>,
    ) -> Result<T, Faults> {
        let (value, faults) = Self::read_all(text, read);
        match value {
            Some(value) if faults.is_empty() => Ok(value),
            _ => Err(Faults::new(file, faults)),
        }
    }

    /// As [`Reader::read`], but returns what could be read beside the faults.
    pub(crate) fn read_all<T>(
        text: &'t str,
        read: impl for<'r> FnOnce(&Section<'r, 't>) -> Option<T>,
    ) -> (Option<T>, Vec<Fault>) {
        let (root, errors) = DeTable::parse_recoverable(text);
        let mut reader = Self { text, faults: RefCell::new(Vec::new()), broken_lines: Vec::new() };
        for error in errors {
            let line = reader.line(error.span().map_or(0, |span| span.start));
            reader.broken_lines.push(line);
            let refusal = Refusal::new(Class::Usage, "syntax", format!("not TOML: {}", error.message()));
            reader.note(line, refusal);
        }
        let top =
            Section { reader: &reader, path: String::new(), line: 1, table: root.get_ref(), known: RefCell::default() };
        let value = read(&top);
        top.finish();
        (value, reader.faults.into_inner())
    }

    /// The line of byte `offset`, counted from 1.
    fn line(&self, offset: usize) -> usize {
        let end = offset.min(self.text.len());
        1 + self.text.as_bytes()[..end].iter().filter(|byte| **byte == b'\n').count()
    }

    fn note(&self, line: usize, refusal: Refusal) {
        let mut faults = self.faults.borrow_mut();
        if faults.len() < FAULTS_MAX {
            faults.push(Fault { line, refusal });
        }
    }
}

/// One table of the document.
pub(crate) struct Section<'r, 't> {
    reader: &'r Reader<'t>,
    path: String,
    line: usize,
    table: &'r DeTable<'t>,
    known: RefCell<Vec<&'static str>>,
}

impl<'r, 't> Section<'r, 't> {
    /// The full name of `key`, such as `vm_service.path`.
    pub(crate) fn field(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The line of `key`, or of the section where it has none.
    pub(crate) fn line_of(&self, key: &str) -> usize {
        self.table.get_key_value(key).map_or(self.line, |(name, _)| self.reader.line(name.span().start))
    }

    /// Notes that the value of `key` is wrong: `problem` completes "field: ".
    pub(crate) fn fault(&self, key: &str, problem: &str, remedy: &str) {
        let field = self.field(key);
        let refusal = Refusal::new(Class::Usage, "invalid_value", format!("{field}: {problem}"));
        self.reader.note(self.line_of(key), refusal.field(&field).remedy(remedy));
    }

    /// Notes that `key` must be there. Said only of a file without syntax errors, where it can be known.
    pub(crate) fn missing(&self, key: &str, remedy: &str) {
        if self.reader.broken_lines.is_empty() {
            let field = self.field(key);
            let refusal = Refusal::new(Class::Usage, "missing_key", format!("{field}: missing"));
            self.reader.note(self.line, refusal.field(&field).remedy(remedy));
        }
    }

    /// Whether `key` is there, right or wrong.
    pub(crate) fn has(&self, key: &'static str) -> bool {
        self.value(key).is_some()
    }

    /// The text of `key`.
    pub(crate) fn text(&self, key: &'static str) -> Option<String> {
        match self.value(key)? {
            DeValue::String(text) => Some(text.clone().into_owned()),
            other => self.wrong_type(key, other, "a text in quotes"),
        }
    }

    /// The text of `key`, parsed.
    pub(crate) fn parsed<T: FromStr<Err = Refusal>>(&self, key: &'static str) -> Option<T> {
        let text = self.text(key)?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(refusal) => {
                let problem = format!("{} is not allowed", quoted(&text));
                self.fault(key, &problem, refusal.remedy.as_deref().unwrap_or(&refusal.message));
                None
            }
        }
    }

    /// The truth of `key`.
    pub(crate) fn boolean(&self, key: &'static str) -> Option<bool> {
        match self.value(key)? {
            DeValue::Boolean(value) => Some(*value),
            other => self.wrong_type(key, other, "true or false, without quotes"),
        }
    }

    /// The whole number of `key`, within `range`.
    pub(crate) fn integer(&self, key: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        let number = match self.value(key)? {
            DeValue::Integer(number) => number,
            other => return self.wrong_type(key, other, "a whole number, without quotes"),
        };
        match u64::from_str_radix(number.as_str(), number.radix()) {
            Ok(value) if range.contains(&value) => Some(value),
            _ => {
                let remedy = format!("use {} to {}", range.start(), range.end());
                self.fault(key, &format!("{} is not allowed", quoted(number.as_str())), &remedy);
                None
            }
        }
    }

    /// The texts of the list `key`.
    pub(crate) fn texts(&self, key: &'static str) -> Option<Vec<String>> {
        let list = match self.value(key)? {
            DeValue::Array(list) => list,
            other => return self.wrong_type(key, other, "a list of texts"),
        };
        let texts: Option<Vec<String>> = list.iter().map(|item| Some(item.get_ref().as_str()?.to_owned())).collect();
        if texts.is_none() {
            self.fault(key, "every part must be a text", "write it as [\"one\", \"two\"]");
        }
        texts
    }

    /// The absolute path of `key`, without `.` and `..`.
    pub(crate) fn absolute(&self, key: &'static str) -> Option<PathBuf> {
        let text = self.text(key)?;
        let path = PathBuf::from(&text);
        let plain = path.components().all(|part| !matches!(part, Component::ParentDir | Component::CurDir));
        if path.is_absolute() && plain && !text.contains('\0') {
            return Some(path.components().collect());
        }
        self.fault(key, &format!("{} is not an absolute path", quoted(&text)), "begin with / and use no . or .. parts");
        None
    }

    /// The table of `key`.
    pub(crate) fn section(&self, key: &'static str) -> Option<Section<'r, 't>> {
        match self.value(key)? {
            DeValue::Table(table) => Some(self.inner(self.field(key), self.line_of(key), table)),
            other => self.wrong_type(key, other, &format!("a section [{}]", self.field(key))),
        }
    }

    /// The tables of the list `key`; none where it is absent.
    pub(crate) fn sections(&self, key: &'static str) -> Vec<Section<'r, 't>> {
        let wanted = format!("sections [[{}]]", self.field(key));
        let list = match self.value(key) {
            Some(DeValue::Array(list)) => list,
            Some(other) => return self.wrong_type(key, other, &wanted).unwrap_or_default(),
            None => return Vec::new(),
        };
        let mut sections = Vec::new();
        for item in list.iter() {
            match item.get_ref() {
                DeValue::Table(table) => {
                    sections.push(self.inner(self.field(key), self.reader.line(item.span().start), table));
                }
                other => _ = self.wrong_type::<()>(key, other, &wanted),
            }
        }
        sections
    }

    /// Notes every key that was never asked for.
    pub(crate) fn finish(&self) {
        let known = self.known.borrow();
        for (key, _) in self.table.iter() {
            let name: &str = key.get_ref();
            if known.contains(&name) {
                continue;
            }
            let field = self.field(name);
            let near = known.iter().min_by_key(|candidate| distance(candidate, name));
            let remedy = match near {
                Some(near) if distance(near, name) <= 2 => format!("did you mean {near}?"),
                _ => format!("known here: {}", known.join(", ")),
            };
            let refusal = Refusal::new(Class::Usage, "unknown_key", format!("{field}: unknown key"));
            self.reader.note(self.reader.line(key.span().start), refusal.field(&field).remedy(remedy));
        }
    }

    fn inner(&self, path: String, line: usize, table: &'r DeTable<'t>) -> Section<'r, 't> {
        Section { reader: self.reader, path, line, table, known: RefCell::default() }
    }

    /// The value of `key`, unless its line was no TOML: the parser has said so already.
    fn value(&self, key: &'static str) -> Option<&'r DeValue<'t>> {
        self.known.borrow_mut().push(key);
        let (name, value) = self.table.get_key_value(key)?;
        let line = self.reader.line(name.span().start);
        (!self.reader.broken_lines.contains(&line)).then_some(value.get_ref())
    }

    fn wrong_type<T>(&self, key: &str, found: &DeValue<'_>, wanted: &str) -> Option<T> {
        self.fault(key, &format!("found {}", found.type_str()), &format!("use {wanted}"));
        None
    }
}

/// How many single-character changes lie between two short names.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let change = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
