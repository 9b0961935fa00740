//! How much of a line a sender may take, by the time of the week.
//!
//! ```text
//! 5                                          always 5 Mbit/s
//! 08:00-18:00=5, else=unlimited              by day
//! mon-fri 08:00-18:00=5, sat=20, else=50     by weekday; a window may go over midnight
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::refusal::Refusal;

/// Windows of one calendar: a night, a day and a weekend need four.
pub const WINDOWS_MAX: usize = 12;

/// Characters of one calendar: as many as a setting may have.
pub const TEXT_MAX: usize = 256;

/// The least: 0.1 Mbit/s, where one block of 4 KiB takes a third of a second.
const LEAST_KBIT: u32 = 100;

/// The most: 100 Gbit/s.
const MOST_KBIT: u32 = 100_000_000;

const DAY: u16 = 24 * 60;
const WEEK: usize = 7 * DAY as usize;
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// A number of kilobits a second, or no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(Option<u32>);

impl Rate {
    /// No limit.
    pub const UNLIMITED: Self = Self(None);

    /// Kilobits a second; `None` where there is no limit.
    pub const fn kbit(self) -> Option<u32> {
        self.0
    }

    /// Bytes a second; `None` where there is no limit.
    pub fn bytes(self) -> Option<u64> {
        self.0.map(|kbit| u64::from(kbit) * 125)
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        if text == "unlimited" {
            return Ok(Self::UNLIMITED);
        }
        let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |text: &str, most: usize| {
            (1..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
        };
        if !digits(whole, 6) || !digits(part, 3) {
            return Err("a rate is a number of Mbit/s, such as 5 or 0.5, or unlimited");
        }
        let number = |text: &str| text.parse::<u32>().unwrap_or_default();
        let kbit = number(whole) * 1000 + number(&format!("{part:0<3}"));
        if kbit == 0 {
            return Err("a limit of 0 would stop replication: pause it instead (landfall vm pause), or use unlimited");
        }
        if !(LEAST_KBIT..=MOST_KBIT).contains(&kbit) {
            return Err("a limit is from 0.1 to 100000 Mbit/s, or unlimited");
        }
        Ok(Self(Some(kbit)))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("unlimited"),
            Some(kbit) if kbit % 1000 == 0 => write!(f, "{}", kbit / 1000),
            Some(kbit) => {
                let part = format!("{:03}", kbit % 1000);
                write!(f, "{}.{}", kbit / 1000, part.trim_end_matches('0'))
            }
        }
    }
}

/// A part of some days.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Window {
    /// The first and the last day, Monday 0; the last may be before the first, over the week's end. `None` is every day.
    days: Option<(u8, u8)>,
    /// Minutes of the day; the end is outside, and before the beginning where the window goes over midnight. `None` is the
    /// whole day.
    hours: Option<(u16, u16)>,
    rate: Rate,
}

impl Window {
    fn parse(text: &str, rate: Rate) -> Result<Self, &'static str> {
        const FORM: &str =
            "a window is a time such as 08:00-18:00, days such as mon-fri or sat, or both: mon-fri 08:00-18:00";
        let mut words = text.split_whitespace();
        let (first, second, third) = (words.next().unwrap_or_default(), words.next(), words.next());
        let is_time = |word: &str| word.contains(':');
        let window = match (first, second) {
            (hours, None) if is_time(hours) => Self { days: None, hours: Some(parse_hours(hours)?), rate },
            (days, None) => Self { days: Some(parse_days(days).ok_or(FORM)?), hours: None, rate },
            (days, Some(hours)) => {
                Self { days: Some(parse_days(days).ok_or(FORM)?), hours: Some(parse_hours(hours)?), rate }
            }
        };
        if third.is_some() { Err(FORM) } else { Ok(window) }
    }

    /// The minutes of the week that it covers, counted from Monday's midnight.
    fn minutes(self) -> impl Iterator<Item = usize> {
        let (first, last) = self.days.unwrap_or((0, 6));
        let days = (last + 7 - first) % 7 + 1;
        let (from, until) = self.hours.unwrap_or((0, DAY));
        let length = if until > from { until - from } else { until + DAY - from };
        (0..days).flat_map(move |day| {
            let begin = usize::from((first + day) % 7) * usize::from(DAY) + usize::from(from);
            (begin..begin + usize::from(length)).map(|minute| minute % WEEK)
        })
    }
}

fn parse_days(text: &str) -> Option<(u8, u8)> {
    let day = |name: &str| DAYS.iter().position(|known| *known == name).and_then(|at| u8::try_from(at).ok());
    match text.split_once('-') {
        Some((first, last)) => Some((day(first)?, day(last)?)),
        None => day(text).map(|day| (day, day)),
    }
}

fn parse_hours(text: &str) -> Result<(u16, u16), &'static str> {
    const FORM: &str = "a time of day is HH:MM in UTC, and a window has two of them: 08:00-18:00";
    let minute = |text: &str| {
        let (hour, minute) = text.split_once(':')?;
        let digits = |part: &str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
        let (hour, minute) = (Some(hour).filter(|part| digits(part))?, Some(minute).filter(|part| digits(part))?);
        let (hour, minute) = (hour.parse::<u16>().ok()?, minute.parse::<u16>().ok()?);
        (minute < 60 && (hour < 24 || (hour, minute) == (24, 0))).then_some(hour * 60 + minute)
    };
    let (from, until) = text.split_once('-').ok_or(FORM)?;
    let (from, until) = (minute(from).ok_or(FORM)?, minute(until).ok_or(FORM)?);
    if from == until || from == DAY {
        return Err("a window that ends where it begins says nothing: leave the time out for whole days");
    }
    Ok((from, until))
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((first, last)) = self.days {
            f.write_str(DAYS[usize::from(first)])?;
            if first != last {
                write!(f, "-{}", DAYS[usize::from(last)])?;
            }
        }
        if let Some((from, until)) = self.hours {
            let space = if self.days.is_some() { " " } else { "" };
            write!(f, "{space}{:02}:{:02}-{:02}:{:02}", from / 60, from % 60, until / 60, until % 60)?;
        }
        write!(f, "={}", self.rate)
    }
}

/// Limits by the time of the week, in UTC.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Bandwidth {
    windows: Vec<Window>,
    otherwise: Rate,
}

impl Bandwidth {
    /// What `text` says; refused, with what would be right, where it is nonsense. The field is the caller's to name.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        Self::read(text).map_err(|why| Refusal::invalid("limit", text, why))
    }

    /// What `text` says, or what would be right.
    pub fn read(text: &str) -> Result<Self, &'static str> {
        if text.len() > TEXT_MAX {
            return Err("a calendar has at most 256 characters");
        }
        let text = text.trim();
        if !text.contains('=') {
            return Ok(Self { windows: Vec::new(), otherwise: Rate::parse(text)? });
        }
        let (mut windows, mut otherwise) = (Vec::new(), None);
        let mut taken = vec![false; WEEK];
        for entry in text.split(',') {
            let Some((when, rate)) = entry.split_once('=') else {
                return Err("each part of a calendar is WINDOW=RATE or else=RATE: 08:00-18:00=5, else=unlimited");
            };
            let (when, rate) = (when.trim(), Rate::parse(rate.trim())?);
            if otherwise.is_some() {
                return Err("else=RATE comes once, and last");
            }
            if when == "else" {
                otherwise = Some(rate);
                continue;
            }
            let window = Window::parse(when, rate)?;
            for minute in window.minutes() {
                if std::mem::replace(&mut taken[minute], true) {
                    return Err("two windows overlap: give each minute of the week one limit");
                }
            }
            windows.push(window);
            if windows.len() > WINDOWS_MAX {
                return Err("a calendar has at most 12 windows");
            }
        }
        Ok(Self { windows, otherwise: otherwise.unwrap_or(Rate::UNLIMITED) })
    }

    /// The limit at `now`, in milliseconds since 1970.
    pub fn at(&self, now: crate::id::UnixMillis) -> Rate {
        let minutes = now.0 / 60_000;
        // 1970 began on a Thursday.
        let day = (minutes / u64::from(DAY) + 3) % 7;
        let now = (day * u64::from(DAY) + minutes % u64::from(DAY)) as usize;
        let window = self.windows.iter().find(|window| window.minutes().any(|minute| minute == now));
        window.map_or(self.otherwise, |window| window.rate)
    }

    /// Whether it never limits anything.
    pub fn is_unlimited(&self) -> bool {
        self.otherwise.kbit().is_none() && self.windows.iter().all(|window| window.rate.kbit().is_none())
    }
}

impl fmt::Display for Bandwidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.windows.is_empty() {
            return write!(f, "{}", self.otherwise);
        }
        for window in &self.windows {
            write!(f, "{window}, ")?;
        }
        write!(f, "else={}", self.otherwise)
    }
}

impl std::str::FromStr for Bandwidth {
    type Err = Refusal;
    fn from_str(text: &str) -> Result<Self, Refusal> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Bandwidth {
    type Error = Refusal;
    fn try_from(text: String) -> Result<Self, Refusal> {
        Self::parse(&text)
    }
}

impl From<Bandwidth> for String {
    fn from(bandwidth: Bandwidth) -> Self {
        bandwidth.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::UnixMillis;

    /// Minute `minute` of day `day` of a week, Monday 0.
    fn at(day: u64, hour: u64, minute: u64) -> UnixMillis {
        // Day 4 of 1970 was a Monday.
        UnixMillis((((4 + 7 * 2900 + day) * 24 + hour) * 60 + minute) * 60_000 + 59_999)
    }

    fn parse(text: &str) -> Bandwidth {
        Bandwidth::parse(text).unwrap_or_else(|refusal| panic!("{text}: {refusal}"))
    }

    #[test]
    fn a_calendar_is_read_written_back_and_looked_up_to_the_minute() {
        let office = parse("08:00-18:00=5, else=unlimited");
        assert_eq!(office.to_string(), "08:00-18:00=5, else=unlimited");
        for (hour, minute, kbit) in [(7, 59, None), (8, 0, Some(5000)), (17, 59, Some(5000)), (18, 0, None)] {
            assert_eq!(office.at(at(2, hour, minute)).kbit(), kbit, "{hour}:{minute}");
        }
        let week = parse("mon-fri 08:00-18:00=5,mon-fri 22:00-06:00=50.5,sat-sun 06:00-24:00=20,else=10");
        for (day, hour, kbit) in [
            (0, 9, 5000),
            (0, 19, 10_000),
            (4, 23, 50_500),
            (5, 5, 50_500),
            (5, 6, 20_000),
            (6, 23, 20_000),
            (0, 0, 10_000),
            (1, 0, 50_500),
        ] {
            assert_eq!(week.at(at(day, hour, 0)).kbit(), Some(kbit), "day {day}, {hour} h");
        }
        assert_eq!(parse(&week.to_string()), week);
        // Over the end of the week: Sunday night is a part of Monday.
        let night = parse("sat-sun 20:00-04:00=1");
        assert_eq!((night.at(at(0, 3, 59)).kbit(), night.at(at(0, 4, 0)).kbit()), (Some(1000), None));
        assert_eq!(parse("fri-mon=1").at(at(6, 12, 0)).kbit(), Some(1000));
        for (text, shown, bytes) in
            [("5", "5", Some(625_000)), (" 0.125 ", "0.125", Some(15_625)), ("unlimited", "unlimited", None)]
        {
            let always = parse(text);
            assert_eq!((always.to_string().as_str(), always.at(at(3, 3, 3)).bytes()), (shown, bytes));
        }
        assert!(parse("unlimited").is_unlimited() && parse("sat=unlimited").is_unlimited() && !office.is_unlimited());
    }

    #[test]
    fn nonsense_is_refused_with_what_would_be_right() {
        for (text, word) in [
            ("", "number of Mbit/s"),
            ("0", "pause"),
            ("0.000", "pause"),
            ("08:00-18:00=0, else=5", "pause"),
            ("0.05", "0.1"),
            ("100001", "100000"),
            ("-5", "number"),
            ("5Mbit", "number"),
            ("5,5", "number"),
            ("08:00-18:00=5, 5", "WINDOW=RATE"),
            ("08:00-18:00=5, 17:59-19:00=3", "overlap"),
            ("mon-fri=5, fri 08:00-09:00=3", "overlap"),
            ("22:00-06:00=5, 05:00-07:00=3", "overlap"),
            ("08:00-08:00=5", "ends where it begins"),
            ("8:00-18:00=5", "HH:MM"),
            ("08:00-25:00=5", "HH:MM"),
            ("08:60-09:00=5", "HH:MM"),
            ("monday=5", "mon-fri"),
            ("mon-fri 08:00-18:00 x=5", "mon-fri"),
            ("else=5, 08:00-18:00=1", "last"),
            ("else=5, else=6", "last"),
            ("=5", "mon-fri"),
        ] {
            let refusal = Bandwidth::parse(text).unwrap_err();
            let told = format!("{} {}", refusal.message, refusal.remedy.clone().unwrap_or_default());
            assert!(told.contains(word), "{text}: {told}");
            assert_eq!(refusal.field.as_deref(), Some("limit"));
        }
        let many = (0..13).map(|hour| format!("{hour:02}:00-{hour:02}:30=1")).collect::<Vec<_>>().join(",");
        assert!(Bandwidth::parse(&many).is_err());
    }
}
