//! Durations and bytes as people write and read them.

use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use landfall_proto::Refusal;
use landfall_proto::id::UnixMillis;

use crate::surface::{Utc, WaitSeconds};

/// Reads a duration: a whole number with a unit, such as 30s, 15m, 12h or 7d.
pub(super) fn duration(text: &str) -> Result<Duration, Refusal> {
    let wrong = || Refusal::invalid("duration", text, "give a whole number with a unit: 30s, 15m, 12h or 7d");
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3600,
        Some('d') => 24 * 3600,
        _ => return Err(wrong()),
    };
    let digits = &text[..text.len() - 1];
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let seconds = digits.parse::<u64>().ok().and_then(|count| count.checked_mul(unit));
    seconds.map(Duration::from_secs).ok_or_else(wrong)
}

/// A duration of at least a second, for `--timeout`.
pub(super) fn timeout(text: &str) -> Result<WaitSeconds, Refusal> {
    WaitSeconds::try_from(duration(text)?.as_secs())
        .map_err(|_| Refusal::invalid("timeout", text, "wait from 1s to 7d"))
}

/// `--wait` and `--timeout`.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Waiting {
    /// Waits until it has taken effect everywhere, instead of until it is committed. Default: off. Example: --wait
    #[arg(long)]
    wait: bool,
    /// How long to wait at most (s, m, h, d); implies --wait. Default: 1m; for `vm move` 15m, for `vm enable` and
    /// `node drain` 1h. Example:
    /// --timeout 10m
    #[arg(long, value_name = "DURATION", value_parser = timeout)]
    timeout: Option<WaitSeconds>,
}

impl Waiting {
    /// The wait that was asked for; `default_seconds` where no time was given.
    pub(super) fn or(self, default_seconds: u64) -> Option<WaitSeconds> {
        self.timeout.or_else(|| if self.wait { WaitSeconds::try_from(default_seconds).ok() } else { None })
    }
}

/// `?wait_seconds=`, for requests without a body.
pub(super) fn query(wait: Option<WaitSeconds>) -> String {
    wait.map_or(String::new(), |wait| format!("?wait_seconds={}", u64::from(wait)))
}

/// A moment to come: a time, or so much later than now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// Then.
    At(Utc),
    /// So much later.
    In(Duration),
}

impl Start {
    /// The moment, where it is `now`.
    pub(super) fn at(self, now: UnixMillis) -> Utc {
        match self {
            Self::At(time) => time,
            Self::In(later) => {
                let later = u64::try_from(later.as_millis()).unwrap_or(u64::MAX);
                Utc(UnixMillis(now.0.saturating_add(later)))
            }
        }
    }
}

impl FromStr for Start {
    type Err = Refusal;
    fn from_str(text: &str) -> Result<Self, Refusal> {
        let moment = match text.strip_prefix('+') {
            Some(later) => duration(later).map(Self::In),
            None => text.parse().map(Self::At),
        };
        moment.map_err(|_| {
            let remedy = "give RFC 3339, such as 2026-11-22T18:30:00Z, or + and a duration, such as +8h";
            Refusal::invalid("start", text, remedy)
        })
    }
}

/// Bytes for people: 512 B, 1.5 GiB.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    // The unit in which the number has at most four digits before its point.
    let power = (count.ilog2() / 10).min(UNITS.len() as u32);
    // Ten times the number in that unit, rounded down: 1023.99 GiB stays below the next unit.
    let tenths = (u128::from(count) * 10) >> (10 * power);
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[power as usize - 1])
}

/// Seconds for people: 14s, 3m20s, 2h05m, 3d04h.
pub(super) fn seconds(count: u64) -> String {
    match count {
        0..60 => format!("{count}s"),
        60..3600 => format!("{}m{:02}s", count / 60, count % 60),
        3600..86400 => format!("{}h{:02}m", count / 3600, count % 3600 / 60),
        _ => format!("{}d{:02}h", count / 86400, count % 86400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_a_whole_number_with_a_unit() {
        for (text, seconds) in [("30s", 30), ("15m", 900), ("12h", 43200), ("7d", 604_800), ("0s", 0)] {
            assert_eq!(duration(text).unwrap(), Duration::from_secs(seconds), "{text}");
        }
        for bad in
            ["", "30", "s", "-5s", "+5s", "1.5h", "5 s", "5w", "99999999999999999999s", "9999999999999999d", "5µ"]
        {
            let refusal = duration(bad).unwrap_err();
            assert!(refusal.remedy.unwrap().contains("15m"), "{bad}");
        }
        assert!(timeout("0s").is_err() && timeout("8d").is_err());
    }

    #[test]
    fn a_start_is_a_time_or_so_much_later() {
        let now = UnixMillis(1_000);
        assert_eq!("+8h".parse::<Start>().unwrap().at(now), Utc(UnixMillis(1_000 + 8 * 3_600_000)));
        let then = "1970-01-01T00:00:05Z".parse::<Start>().unwrap();
        assert_eq!(then.at(now), Utc(UnixMillis(5_000)));
        for bad in ["", "+", "8h", "+8", "tomorrow", "2026-11-22"] {
            let refusal = bad.parse::<Start>().unwrap_err();
            assert!(refusal.remedy.unwrap().contains("+8h"), "{bad}");
        }
    }

    #[test]
    fn bytes_are_cut_to_one_digit_after_the_point() {
        let shown = [0, 1023, 1024, 1536, 5 << 30, (1 << 40) - 1, u64::MAX].map(bytes);
        assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "5.0 GiB", "1023.9 GiB", "15.9 EiB"]);
    }

    #[test]
    fn seconds_have_two_units_at_most() {
        assert_eq!([14, 200, 7500, 273_600].map(seconds), ["14s", "3m20s", "2h05m", "3d04h"]);
    }
}
