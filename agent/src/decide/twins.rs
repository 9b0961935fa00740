//! One key, two places: whether what is heard of a key can come from one node only.
//!
//! A node has one address at a time. One that moves, or comes back, is heard at the new address and never again at the old
//! one; so a key that is heard at one address, at another, and then at the first one again, or at both all the while, is in
//! two hands. Only connections that came in to the same address of this node are compared: a node with several addresses
//! may call each of ours from another one.

use std::collections::BTreeMap;
use std::time::Duration;

use landfall_proto::id::Fingerprint;
use landfall_proto::planted::{self, Bug};
use landfall_proto::seam::Time;
use serde::{Deserialize, Serialize};

use crate::surface::doctor::{Finding, Level};

/// How long an address is remembered after it was last heard, and an alarm after its last reason.
pub const REMEMBERED: Duration = Duration::from_secs(120);

/// Addresses remembered for one key: two are enough for an alarm.
const ADDRESSES_MAX: usize = 8;

/// Keys that are looked at: members and peers are fewer.
const KEYS_MAX: usize = 4096;

/// A connection that something came in on since the last look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The key at its other end.
    pub key: Fingerprint,
    /// Whose key it is, as the lists have it.
    pub who: String,
    /// This node's address.
    pub here: String,
    /// The other end's.
    pub there: String,
}

/// A key in two hands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Twin {
    /// Whose key it is.
    pub who: String,
    /// Where it is heard.
    pub addresses: Vec<String>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    first: Time,
    last: Time,
}

/// What was heard of every key lately.
#[derive(Clone, Debug, Default)]
pub struct Twins {
    places: BTreeMap<(Fingerprint, String), BTreeMap<String, Place>>,
    alarms: BTreeMap<Fingerprint, (Twin, Time)>,
}

impl Twins {
    /// Takes in what was `heard` since the last look; the alarms that are new.
    pub fn look(&mut self, heard: &[Heard], now: Time) -> Vec<Twin> {
        self.places.retain(|_, places| {
            places.retain(|_, place| now.since(place.last) < REMEMBERED);
            !places.is_empty()
        });
        self.alarms.retain(|_, (_, last)| now.since(*last) < REMEMBERED);
        let mut fresh = Vec::new();
        for one in heard {
            let key = (one.key, one.here.clone());
            if !self.places.contains_key(&key) && self.places.len() >= KEYS_MAX {
                continue;
            }
            let places = self.places.entry(key).or_default();
            let before = places.get(&one.there).copied();
            // Since it was last heard here, it was heard elsewhere; or at both since before the last look.
            let elsewhere = before.and_then(|before| {
                let other = |(there, place): (&String, &Place)| {
                    let came_back = place.first > before.last && place.last < now;
                    let both = place.last == now && place.first < now && before.first < now;
                    (*there != one.there && (came_back || both)).then(|| there.clone())
                };
                places.iter().find_map(other).filter(|_| !planted::is(Bug::TwinsUnheard))
            });
            let place = Place { first: before.map_or(now, |before| before.first), last: now };
            if before.is_some() || places.len() < ADDRESSES_MAX {
                places.insert(one.there.clone(), place);
            }
            if let Some(elsewhere) = elsewhere {
                let mut addresses = vec![one.there.clone(), elsewhere];
                addresses.sort();
                let twin = Twin { who: one.who.clone(), addresses };
                if self.alarms.insert(one.key, (twin.clone(), now)).is_none() {
                    fresh.push(twin);
                }
            }
        }
        fresh
    }

    /// Every alarm that stands.
    pub fn standing(&self) -> impl Iterator<Item = &Twin> {
        self.alarms.values().map(|(twin, _)| twin)
    }
}

/// What is wrong, and what to do: about `twins`, each as told by the node that hears it.
pub fn findings(twins: &[(String, Twin)]) -> Vec<Finding> {
    let finding = |(heard_by, twin): &(String, Twin)| Finding {
        level: Level::Critical,
        code: TWICE.to_owned(),
        about: twin.who.clone(),
        message: message(heard_by, &twin.addresses),
        remedy: remedy(&twin.who),
    };
    twins.iter().map(finding).collect()
}

/// The stable word for a key in two hands.
pub const TWICE: &str = "identity_twice";

fn message(heard_by: &str, addresses: &[String]) -> String {
    format!("{heard_by} hears its key at {} at the same time: somebody has a copy of it", addresses.join(" and "))
}

/// What to do about `who`, whose key somebody else has.
pub fn remedy(who: &str) -> String {
    let node = who.split('.').next().unwrap_or(who);
    format!(
        "find out which one is the node; then, at its own cluster, `landfall node remove {node}`, which shuts the key out \
         within a second, and join the node anew: it gets a new key"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(there: &str) -> Heard {
        Heard { key: Fingerprint([7; 32]), who: "r3".into(), here: "10.0.0.1".into(), there: there.into() }
    }

    /// What each look hears; at which look an alarm comes.
    fn alarm(looks: &[&[&str]]) -> Option<usize> {
        let mut twins = Twins::default();
        looks.iter().enumerate().find_map(|(at, look)| {
            let heard: Vec<Heard> = look.iter().map(|there| heard(there)).collect();
            let fresh = twins.look(&heard, Time(Duration::from_secs(100 + 2 * at as u64)));
            (!fresh.is_empty()).then_some(at)
        })
    }

    const A: &str = "10.0.0.3:7443";
    const B: &str = "10.0.0.66:40000";

    #[test]
    fn a_node_that_moves_or_comes_back_is_one_and_a_key_in_two_hands_is_two() {
        assert_eq!(alarm(&[&[A], &[A], &[], &[A], &[A]]), None, "silent for a while");
        assert_eq!(
            alarm(&[&[A], &[A, B], &[B], &[B]]),
            None,
            "moved: what was on its way is heard beside the new address"
        );
        assert_eq!(alarm(&[&[A], &[A, B], &[A, B]]), Some(2), "both go on");
        assert_eq!(alarm(&[&[A, B], &[B, A]]), Some(1));
        assert_eq!(alarm(&[&[A], &[B], &[A]]), Some(2), "each shuts the other one's connection");
        assert_eq!(alarm(&[&[A], &[], &[B], &[], &[A]]), Some(4));
    }

    #[test]
    fn ways_to_other_addresses_of_this_node_say_nothing_and_an_alarm_ends() {
        let mut twins = Twins::default();
        let other = Heard { here: "192.168.0.1".into(), ..heard(B) };
        for second in 0..10 {
            let fresh = twins.look(&[heard(A), other.clone()], Time(Duration::from_secs(1000 + second)));
            assert!(fresh.is_empty());
        }
        let at = |second: u64| Time(Duration::from_secs(2000 + second));
        twins.look(&[heard(A), heard(B)], at(0));
        assert_eq!(twins.look(&[heard(A), heard(B)], at(2)).len(), 1);
        assert!(twins.look(&[heard(A), heard(B)], at(4)).is_empty(), "told once");
        assert_eq!(twins.standing().count(), 1);
        twins.look(&[heard(A)], at(200));
        assert_eq!(twins.standing().count(), 0);
        let finding = &findings(&[("r1".into(), Twin { who: "r3".into(), addresses: vec![A.into(), B.into()] })])[0];
        assert!(finding.message.contains(B) && finding.remedy.contains("landfall node remove r3"));
    }
}
