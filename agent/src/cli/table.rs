//! Plain text for people: aligned columns, no colour.

use std::fmt::{Display, Write};

/// A shape that people can read.
pub(super) trait Shown {
    /// Its text, whole lines.
    fn text(&self) -> String;
}

/// Rows under a head.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns.
    pub(super) fn new<const N: usize>(head: [&str; N]) -> Self {
        Self { rows: vec![head.map(str::to_owned).into()] }
    }

    /// Adds a row.
    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.map(|cell| printable(&cell)).into());
    }

    /// The table as text: columns two spaces apart, nothing after the last.
    pub(super) fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let line = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect::<Vec<_>>();
            text.push_str(line.join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

/// Names with their values, one a line.
#[derive(Debug, Default)]
pub(super) struct Facts {
    facts: Vec<(String, String)>,
}

impl Facts {
    /// Adds a fact.
    #[must_use]
    pub(super) fn fact(mut self, name: &str, value: impl Display) -> Self {
        self.facts.push((name.to_owned(), printable(&value.to_string())));
        self
    }

    /// Adds a fact a value; none where there are none.
    #[must_use]
    pub(super) fn each<T: Display>(mut self, name: &str, values: impl IntoIterator<Item = T>) -> Self {
        for value in values {
            self = self.fact(name, value);
        }
        self
    }

    /// The facts as text.
    pub(super) fn text(&self) -> String {
        let width = self.facts.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        let mut text = String::new();
        for (name, value) in &self.facts {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{}", format!("{name:width$}  {value}").trim_end());
        }
        text
    }
}

/// A value, or a dash where there is none.
pub(super) fn or_dash<T: Display>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// Values behind one another, or a dash.
pub(super) fn joined<T: Display>(values: &[T]) -> String {
    match values {
        [] => "-".to_owned(),
        values => values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

/// The word of a snake_case enum, as JSON has it.
pub(super) fn word<T: serde::Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        Ok(other) => other.to_string(),
        Err(_) => "-".to_owned(),
    }
}

/// `text` without what could steer a terminal: it may come from another machine.
pub(super) fn printable(text: &str) -> String {
    if text.chars().any(char::is_control) {
        return text
            .chars()
            .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
            .collect();
    }
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_by_characters_and_nothing_trails() {
        let mut table = Table::new(["NAME", "STATE"]);
        table.row(["é".to_owned(), "up".to_owned()]);
        table.row(["longer name".to_owned(), "-".to_owned()]);
        assert_eq!(table.text(), "NAME         STATE\né            up\nlonger name  -\n");
        let facts = Facts::default().fact("cap", "x").fact("owner", or_dash(None::<u8>)).each("warning", ["a", "b"]);
        assert_eq!(facts.text(), "cap      x\nowner    -\nwarning  a\nwarning  b\n");
    }

    #[test]
    fn a_cell_cannot_steer_the_terminal() {
        let mut table = Table::new(["REASON"]);
        table.row(["a\u{1b}[2Jb\nc".to_owned()]);
        assert_eq!(table.text(), "REASON\na\\u{1b}[2Jb\\nc\n");
    }
}
