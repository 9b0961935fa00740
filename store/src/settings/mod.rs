//! The cluster-wide settings: declared once, in [`declaration`]; everything else about a setting derives from there.
//!
//! The committed state keeps canonical text by key, and only where it differs from the default. [`Settings`] is the
//! resolved form, which has no invalid value.

pub mod declaration;
mod page;
mod resolved;
pub mod value;

use std::collections::BTreeMap;

use landfall_proto::{Class, Refusal, refusal::quoted};
use serde::Serialize;

use crate::limits;
pub use declaration::{DECLARATIONS, Declaration, Kind};
pub use page::page;
pub use resolved::{Authentication, Compression, Placement, Settings};
pub use value::{AutoResync, TimeOfDay};

/// Committed values by key: canonical text, absent where the default stands.
pub type Values = BTreeMap<String, String>;

/// A setting's value as JSON shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Shown {
    /// A switch.
    Flag(bool),
    /// A number.
    Count(u64),
    /// Anything else, in the form in which it can be set.
    Text(String),
    /// Not set, and no default.
    Nothing,
}

/// Finds the declaration of `key`; an unknown one is refused with the nearest that exists.
pub fn declaration_of(key: &str) -> Result<&'static Declaration, Refusal> {
    DECLARATIONS.iter().find(|declaration| declaration.key == key).ok_or_else(|| {
        let nearest = DECLARATIONS.iter().min_by_key(|declaration| distance(key, declaration.key));
        let remedy = nearest.map_or(String::new(), |nearest| format!("did you mean {}?", nearest.key));
        Refusal::new(Class::Usage, "unknown_setting", format!("there is no setting {}", quoted(key)))
            .field("key")
            .remedy(format!("{remedy} `landfall settings show` lists them all"))
    })
}

/// Checks `text` as a value of `key` and returns its canonical form.
pub fn validate(key: &str, text: &str) -> Result<String, Refusal> {
    let declaration = declaration_of(key)?;
    if text.chars().count() > limits::SETTING_VALUE {
        return Err(declaration.refuse(text));
    }
    declaration.kind.canonical(text).map_err(|why| match why {
        value::Fault::NotAllowed => declaration.refuse(text),
        value::Fault::Because(remedy) => Refusal::invalid(key, text, remedy),
        value::Fault::Comes(remedy) => {
            Refusal::new(Class::Refused, "not_supported", format!("{key}: {} is not supported", quoted(text)))
                .field(key)
                .remedy(remedy)
        }
    })
}

/// The value of `key` as it stands: the committed one, else the default, `None` where there is neither.
pub fn effective(values: &Values, key: &str) -> Option<String> {
    let default = || DECLARATIONS.iter().find(|declaration| declaration.key == key)?.default.map(str::to_owned);
    values.get(key).cloned().or_else(default)
}

/// Every setting as it stands, typed for JSON.
pub fn show(values: &Values) -> BTreeMap<&'static str, Shown> {
    let shown = |declaration: &Declaration| {
        let Some(text) = effective(values, declaration.key) else { return Shown::Nothing };
        match declaration.kind {
            Kind::Flag => Shown::Flag(text == "true"),
            Kind::Count { .. } => text.parse().map_or(Shown::Text(text), Shown::Count),
            _ => Shown::Text(text),
        }
    };
    DECLARATIONS.iter().map(|declaration| (declaration.key, shown(declaration))).collect()
}

/// The list of settings for a terminal: one a line, with what is allowed and the default.
pub fn help() -> String {
    let line = |declaration: &Declaration| {
        let default = declaration.default.map_or_else(|| "not set".to_owned(), |default| format!("default {default}"));
        format!("  {:<27} {} ({default})\n", declaration.key, declaration.kind.allowed())
    };
    format!("Settings:\n{}", DECLARATIONS.iter().map(line).collect::<String>())
}

/// Applies `changes` to `values`; refused as a whole if any is wrong, or if the result contradicts itself.
pub fn change(values: &Values, changes: &BTreeMap<String, Option<String>>) -> Result<Values, Refusal> {
    if changes.is_empty() || changes.len() > limits::SETTINGS_CHANGES {
        return Err(Refusal::invalid("key", &changes.len().to_string(), "give one or more KEY=VALUE"));
    }
    let mut next = values.clone();
    for (key, text) in changes {
        let declaration = declaration_of(key)?;
        let canonical = text.as_deref().map(|text| validate(key, text)).transpose()?;
        match canonical.filter(|text| Some(text.as_str()) != declaration.default) {
            Some(text) => drop(next.insert(key.clone(), text)),
            None => drop(next.remove(key)),
        }
    }
    let settings = Settings::resolve(&next);
    if settings.allowed_from_any_server && settings.default_storage_location.is_none() {
        return Err(Refusal::new(
            Class::Usage,
            "incomplete",
            "allowed_from_any_server: 'true' needs a default_storage_location, which is not set",
        )
        .field("default_storage_location")
        .remedy("set both in one command: allowed_from_any_server=true default_storage_location=NAME"));
    }
    Ok(next)
}

/// How many letters apart two words are (Levenshtein).
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.chars().take(limits::SETTING_VALUE).enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, r) in right.iter().enumerate() {
            let replaced = corner + usize::from(l != *r);
            corner = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(corner + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(pairs: &[(&str, &str)]) -> Result<Values, Refusal> {
        let changes = pairs.iter().map(|(key, value)| ((*key).to_owned(), Some((*value).to_owned()))).collect();
        change(&Values::new(), &changes)
    }

    #[test]
    fn every_default_is_valid_and_canonical() {
        for declaration in DECLARATIONS {
            if let Some(default) = declaration.default {
                assert_eq!(validate(declaration.key, default).unwrap(), default, "{}", declaration.key);
            }
        }
    }

    #[test]
    fn a_bad_value_names_the_field_the_value_and_what_would_be_right() {
        let bad = [
            ("replication_enabled", "maybe", "true or false"),
            ("monitoring_interval", "30m", "1h"),
            ("monitoring_interval", "8d", "7d"),
            ("monitoring_start_time", "24:00", "09:00"),
            ("maximum_active_transfers", "0", "1"),
            ("maximum_active_transfers", "-1", "1024"),
            ("apply_disk_limit", "261", "260"),
            ("node_down_after", "1s", "2s"),
            ("default_storage_location", "/srv/replicas", "storage"),
            ("placement", "spread", "random"),
            ("auto_resync", "18:30", "18:30-06:00"),
            ("auto_resync", "06:00-06:00", "always, never"),
            ("auto_resync", "18:30-24:00", "UTC"),
        ];
        for (key, value, hint) in bad {
            let refusal = set(&[(key, value)]).unwrap_err();
            assert_eq!(refusal.field.as_deref(), Some(key));
            assert!(refusal.message.contains(value), "{refusal}");
            assert!(refusal.remedy.unwrap().contains(hint), "{key}={value}");
        }
    }

    #[test]
    fn kerberos_is_refused_with_what_replaces_it() {
        let refusal = set(&[("authentication", "kerberos")]).unwrap_err();
        assert_eq!((refusal.class, refusal.code.as_str()), (Class::Refused, "not_supported"));
        assert!(refusal.to_string().contains("certificates"), "{refusal}");
    }

    #[test]
    fn an_unknown_key_suggests_the_nearest() {
        let refusal = set(&[("replication_enable", "true")]).unwrap_err();
        assert_eq!(refusal.code, "unknown_setting");
        assert!(refusal.remedy.unwrap().contains("replication_enabled"));
    }

    #[test]
    fn any_server_needs_a_storage_location() {
        assert_eq!(set(&[("allowed_from_any_server", "true")]).unwrap_err().code, "incomplete");
        let both = [("allowed_from_any_server", "true"), ("default_storage_location", "default")];
        let values = set(&both).unwrap();
        let unset = BTreeMap::from([("default_storage_location".to_owned(), None)]);
        assert_eq!(change(&values, &unset).unwrap_err().code, "incomplete");
    }

    #[test]
    fn values_are_kept_in_one_form_and_defaults_not_at_all() {
        let values = set(&[("monitoring_interval", "7200s"), ("node_down_after", "5s")]).unwrap();
        assert_eq!(values, Values::from([("monitoring_interval".to_owned(), "2h".to_owned())]));
        assert_eq!(effective(&values, "node_down_after").as_deref(), Some("5s"));
        assert_eq!(effective(&values, "default_storage_location"), None);
    }

    #[test]
    fn json_shows_types() {
        let shown = show(&Values::new());
        assert_eq!(shown["replication_enabled"], Shown::Flag(false));
        assert_eq!(shown["maximum_active_transfers"], Shown::Count(3));
        assert_eq!(shown["monitoring_interval"], Shown::Text("12h".to_owned()));
        assert_eq!(shown["default_storage_location"], Shown::Nothing);
        assert_eq!(shown.len(), DECLARATIONS.len());
    }
}
