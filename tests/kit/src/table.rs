//! Figures beside their floors: what the same machine does, in the same run, without the product.

use std::fmt;

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A time, in microseconds: less is better.
    Micros,
    /// A rate a second: more is better.
    PerSecond,
    /// A throughput in MiB a second: more is better.
    MibPerSecond,
    /// Memory in MiB: less is better.
    Mib,
    /// A size in millions of bytes: less is better.
    Megabytes,
    /// A share of one core: less is better.
    Percent,
    /// A number of what should not be: less is better.
    Count,
}

impl Unit {
    fn more_is_better(self) -> bool {
        matches!(self, Self::PerSecond | Self::MibPerSecond)
    }

    fn show(self, value: f64) -> String {
        match self {
            Self::Micros if value >= 1e6 => format!("{:.2} s", value / 1e6),
            Self::Micros if value >= 1e4 => format!("{:.1} ms", value / 1e3),
            Self::Micros if value >= 1e3 => format!("{:.2} ms", value / 1e3),
            Self::Micros => format!("{value:.1} us"),
            Self::PerSecond if value >= 1e4 => format!("{:.1} k/s", value / 1e3),
            Self::PerSecond => format!("{value:.0} /s"),
            Self::MibPerSecond => format!("{value:.0} MiB/s"),
            Self::Mib => format!("{value:.1} MiB"),
            Self::Count => format!("{value:.0}"),
            Self::Megabytes => format!("{value:.1} MB"),
            Self::Percent => format!("{value:.2} %"),
        }
    }
}

/// What a figure should come to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Aim {
    /// At most this many times the floor's cost.
    TimesFloor(f64),
    /// No worse than this value.
    Value(f64),
}

/// One line: a figure of the product, the floor under it, or both.
#[derive(Clone, Debug)]
pub struct Row {
    name: String,
    unit: Unit,
    figure: Option<f64>,
    floor: Option<f64>,
    aim: Option<Aim>,
}

impl Row {
    /// A figure of the product.
    pub fn figure(name: &str, unit: Unit, value: f64) -> Self {
        Self { name: name.to_owned(), unit, figure: Some(value), floor: None, aim: None }
    }

    /// A floor by itself.
    pub fn floor(name: &str, unit: Unit, value: f64) -> Self {
        Self { name: name.to_owned(), unit, figure: None, floor: Some(value), aim: None }
    }

    /// The same line with a floor, in the same unit.
    #[must_use]
    pub fn over(mut self, floor: f64) -> Self {
        self.floor = Some(floor);
        self
    }

    /// The same line with an aim.
    #[must_use]
    pub fn aim(mut self, aim: Aim) -> Self {
        self.aim = Some(aim);
        self
    }

    /// How many times the floor's cost the figure is: 1 is as good as the floor, more is worse, whatever the unit.
    pub fn ratio(&self) -> Option<f64> {
        let (figure, floor) = (self.figure?, self.floor?);
        Some(if self.unit.more_is_better() { floor / figure } else { figure / floor })
    }

    /// Whether the aim is met; `None` where there is none, or nothing to hold against it.
    pub fn is_met(&self) -> Option<bool> {
        match self.aim? {
            Aim::TimesFloor(most) => Some(self.ratio()? <= most),
            Aim::Value(bound) if self.unit.more_is_better() => Some(self.figure? >= bound),
            Aim::Value(bound) => Some(self.figure? <= bound),
        }
    }

    fn cells(&self) -> [String; 6] {
        let show = |value: Option<f64>| value.map_or("-".to_owned(), |value| self.unit.show(value));
        let aim = match self.aim {
            Some(Aim::TimesFloor(most)) => format!("<= {most} x"),
            Some(Aim::Value(bound)) if self.unit.more_is_better() => format!(">= {}", self.unit.show(bound)),
            Some(Aim::Value(bound)) => format!("<= {}", self.unit.show(bound)),
            None => "-".to_owned(),
        };
        let ratio = self.ratio().map_or("-".to_owned(), |ratio| format!("{ratio:.2} x"));
        let met = match self.is_met() {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "",
        };
        [self.name.clone(), show(self.figure), show(self.floor), ratio, aim, met.to_owned()]
    }
}

/// Lines in the order they were added; shown in columns.
#[derive(Clone, Debug, Default)]
pub struct Table(Vec<Row>);

impl Table {
    /// Adds a line.
    pub fn add(&mut self, row: Row) {
        self.0.push(row);
    }

    /// The lines.
    pub fn rows(&self) -> &[Row] {
        &self.0
    }

    /// How many aims are not met.
    pub fn missed(&self) -> usize {
        self.0.iter().filter(|row| row.is_met() == Some(false)).count()
    }
}

impl Extend<Row> for Table {
    fn extend<T: IntoIterator<Item = Row>>(&mut self, rows: T) {
        self.0.extend(rows);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["what", "figure", "floor", "ratio", "aim", "met"].map(str::to_owned);
        let lines: Vec<_> = std::iter::once(head).chain(self.0.iter().map(Row::cells)).collect();
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths: [usize; 6] = std::array::from_fn(width);
        for (number, line) in lines.iter().enumerate() {
            write!(f, "{:<1$}", line[0], widths[0])?;
            for (cell, width) in line.iter().zip(widths).skip(1) {
                write!(f, "  {cell:>width$}")?;
            }
            writeln!(f)?;
            if number == 0 {
                writeln!(f, "{}", "-".repeat(widths.iter().sum::<usize>() + 2 * (widths.len() - 1)))?;
            }
        }
        Ok(())
    }
}

/// The value below which `share` of the sorted `values` lie; 0 where there are none.
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let place = (values.len().saturating_sub(1) as f64 * share).round() as usize;
    values.get(place).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_above_one_is_worse_for_times_and_for_rates() {
        let time = Row::figure("locate", Unit::Micros, 150.0).over(75.0).aim(Aim::TimesFloor(1.5));
        let rate = Row::figure("copy", Unit::MibPerSecond, 500.0).over(1000.0).aim(Aim::Value(400.0));
        assert_eq!((time.ratio(), rate.ratio()), (Some(2.0), Some(2.0)));
        assert_eq!((time.is_met(), rate.is_met()), (Some(false), Some(true)));
        let mut table = Table::default();
        table.extend([time, rate, Row::floor("sync", Unit::Micros, 12_345.0)]);
        assert_eq!(table.missed(), 1);
        let shown = table.to_string();
        assert!(shown.contains("NO") && shown.contains("12.3 ms"), "{shown}");
        let widths: std::collections::BTreeSet<usize> = shown.lines().map(|line| line.chars().count()).collect();
        assert_eq!(widths.len(), 1, "{shown}");
    }

    #[test]
    fn quantiles_are_values_that_were_measured() {
        assert_eq!((quantile(&[1.0, 2.0, 10.0], 0.5), quantile(&[1.0, 2.0, 10.0], 0.99)), (2.0, 10.0));
        assert_eq!(quantile(&[], 0.5), 0.0);
    }
}
