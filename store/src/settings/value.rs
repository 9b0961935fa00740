//! The texts that values of settings are written as, and their one canonical form.

use std::fmt;
use std::time::Duration;

use landfall_proto::id::StorageName;
use landfall_proto::model::Bandwidth;

use super::declaration::Kind;

/// Why a text is no value.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is not one of the values allowed.
    NotAllowed,
    /// It is a known wish that is not granted; the text says what to do.
    Comes(&'static str),
    /// It is one of many forms, and wrong in this way.
    Because(&'static str),
}

/// A time of day, to the minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimeOfDay {
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.hour, self.minute)
    }
}

impl TimeOfDay {
    /// The time that `text`, `HH:MM`, names.
    pub fn parse(text: &str) -> Option<Self> {
        let (hour, minute) = text.split_once(':')?;
        let digits = |part: &str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
        if !digits(hour) || !digits(minute) {
            return None;
        }
        let time = Self { hour: hour.parse().ok()?, minute: minute.parse().ok()? };
        (time.hour < 24 && time.minute < 60).then_some(time)
    }
}

/// When what waits for it may begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AutoResync {
    /// At any time.
    #[default]
    Always,
    /// Only by command.
    Never,
    /// Each day from the one time until the other, over midnight where that is the earlier one.
    Between(TimeOfDay, TimeOfDay),
}

impl fmt::Display for AutoResync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Always => f.write_str("always"),
            Self::Never => f.write_str("never"),
            Self::Between(from, until) => write!(f, "{from}-{until}"),
        }
    }
}

impl AutoResync {
    /// What `text` names. A day's part that ends where it begins says nothing, so it is none.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "always" => Some(Self::Always),
            "never" => Some(Self::Never),
            _ => {
                let (from, until) = text.split_once('-')?;
                let (from, until) = (TimeOfDay::parse(from)?, TimeOfDay::parse(until)?);
                (from != until).then_some(Self::Between(from, until))
            }
        }
    }
}

/// Units of lengths of time, longest first, with their seconds.
const UNITS: [(char, u64); 4] = [('d', 86_400), ('h', 3600), ('m', 60), ('s', 1)];

/// The length of time that `text` names: a whole number and one of `s`, `m`, `h`, `d`.
pub fn parse_span(text: &str) -> Option<Duration> {
    let unit = text.chars().next_back()?;
    let (_, seconds) = UNITS.iter().find(|(name, _)| *name == unit)?;
    let number = text.strip_suffix(unit)?;
    if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(Duration::from_secs(number.parse::<u64>().ok()?.checked_mul(*seconds)?))
}

/// `span` in the longest unit that divides it.
pub fn format_span(span: Duration) -> String {
    let seconds = span.as_secs();
    // Days are for people who wrote days: 12h and 24h both read better than half and whole ones.
    let fits = |(unit, size): &&(char, u64)| seconds.is_multiple_of(*size) && (*unit != 'd' || seconds > 86_400);
    match UNITS.iter().find(fits) {
        Some((unit, size)) if seconds > 0 => format!("{}{unit}", seconds / size),
        _ => format!("{seconds}s"),
    }
}

impl Kind {
    /// Checks `text` and returns its canonical form.
    pub(crate) fn canonical(self, text: &str) -> Result<String, Fault> {
        let checked = match self {
            Self::Flag => matches!(text, "true" | "false").then(|| text.to_owned()),
            Self::Choice { allowed, refused } => {
                if let Some((_, remedy)) = refused.iter().find(|(word, _)| word.eq_ignore_ascii_case(text)) {
                    return Err(Fault::Comes(remedy));
                }
                allowed.contains(&text).then(|| text.to_owned())
            }
            Self::Count { least, most } => {
                let number = Some(text).filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
                let number = number.and_then(|text| text.parse::<u64>().ok());
                number.filter(|number| (least..=most).contains(number)).map(|number| number.to_string())
            }
            Self::Span { least, most } => {
                parse_span(text).filter(|span| (least..=most).contains(span)).map(format_span)
            }
            Self::TimeOfDay => TimeOfDay::parse(text).map(|time| time.to_string()),
            Self::Daily => AutoResync::parse(text).map(|window| window.to_string()),
            Self::Bandwidth => {
                return Bandwidth::read(text).map(|limit| limit.to_string()).map_err(Fault::Because);
            }
            Self::Storage => text.parse::<StorageName>().ok().map(|name| name.as_str().to_owned()),
        };
        checked.ok_or(Fault::NotAllowed)
    }

    /// What is allowed, in words.
    pub fn allowed(self) -> String {
        match self {
            Self::Flag => "true or false".to_owned(),
            Self::Choice { allowed, .. } => allowed.join(" or "),
            Self::Count { least, most } => format!("a whole number from {least} to {most}"),
            Self::Span { least, most } => {
                format!("a time from {} to {}, such as {}", format_span(least), format_span(most), format_span(least))
            }
            Self::TimeOfDay => "a time of day in UTC, such as 09:00".to_owned(),
            Self::Daily => "always, never, or a part of the day in UTC, such as 18:30-06:00".to_owned(),
            Self::Bandwidth => {
                "Mbit/s, unlimited, or both by the time of the week in UTC, such as 08:00-18:00=5, else=unlimited"
                    .to_owned()
            }
            Self::Storage => "the name of a storage location of the nodes' files, such as default".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_and_written_back() {
        for (text, canonical) in
            [("90s", "90s"), ("120s", "2m"), ("24h", "24h"), ("48h", "2d"), ("7d", "7d"), ("0s", "0s")]
        {
            assert_eq!(parse_span(text).map(format_span).as_deref(), Some(canonical), "{text}");
        }
        for bad in ["", "s", "5", "5 s", "1.5h", "-1s", "99999999999999999999d", "5é"] {
            assert_eq!(parse_span(bad), None, "{bad}");
        }
    }
}
