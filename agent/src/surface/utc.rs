//! Times as people and scripts read them.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use landfall_proto::Refusal;
use landfall_proto::id::UnixMillis;
use serde::{Deserialize, Serialize};

/// A time in RFC 3339 UTC with milliseconds, such as `2026-11-22T18:42:41.250Z`. Display only: it orders nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Utc(pub UnixMillis);

impl From<UnixMillis> for Utc {
    fn from(time: UnixMillis) -> Self {
        Self(time)
    }
}

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A clock that reads past the year 9999 is shown as the end of that year rather than not at all.
        let millis = i64::try_from(self.0.0).unwrap_or(i64::MAX);
        let time = Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MAX);
        write!(f, "{time:.3}")
    }
}

impl FromStr for Utc {
    type Err = Refusal;
    fn from_str(text: &str) -> Result<Self, Refusal> {
        let time = text.parse::<Timestamp>().ok().and_then(|time| u64::try_from(time.as_millisecond()).ok());
        time.map(|millis| Self(UnixMillis(millis)))
            .ok_or_else(|| Refusal::invalid("time", text, "give RFC 3339 UTC, such as 2026-11-22T18:42:41Z"))
    }
}

impl TryFrom<String> for Utc {
    type Error = Refusal;
    fn try_from(text: String) -> Result<Self, Refusal> {
        text.parse()
    }
}

impl From<Utc> for String {
    fn from(time: Utc) -> Self {
        time.to_string()
    }
}
