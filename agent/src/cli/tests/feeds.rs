//! Commands that go on: one line an event.

use landfall_proto::id::Revision;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::*;
use crate::surface::samples;
use crate::surface::settings::SettingsEvent;

#[test]
fn a_watch_prints_one_json_line_an_event_and_says_where_to_go_on() {
    let mut agent = Agent::start();
    let (events, feed) = mpsc::channel(8);
    *agent.fake.feed.lock().unwrap() = Some(feed);
    let (out, err, command) = agent.follow(&["settings", "watch", "--from", "11"]);
    for event in SettingsEvent::of_revision(Revision::from_number(12), samples::changes()) {
        events.blocking_send(Ok(event)).unwrap();
    }
    // Printed while the feed is open, not at its end.
    let lines = out.lines(2);
    let change = json!({
        "event": "change", "key": "replication_enabled", "old": "false", "new": "true", "revision": 12, "more": false,
    });
    assert_eq!(serde_json::from_str::<Value>(&lines[1]).unwrap(), change);
    assert_eq!(agent.fake.take(), [("settings_watch", json!(11))]);
    let torn = SettingsEvent::Change {
        key: "a".into(),
        old: None,
        new: None,
        revision: Revision::from_number(13),
        more: true,
    };
    events.blocking_send(Ok(torn)).unwrap();
    out.lines(3);

    agent.stop();
    assert_eq!(command.join().unwrap(), 5);
    let error = serde_json::from_str::<Value>(&err.text()).unwrap()["error"].clone();
    assert_eq!(error["code"], "feed_ended");
    assert_eq!(error["remedy"], "go on with --from 12", "revision 13 did not come in full");
}

#[test]
fn a_watch_without_a_revision_begins_with_all_settings() {
    let agent = Agent::start();
    let (events, feed) = mpsc::channel(8);
    *agent.fake.feed.lock().unwrap() = Some(feed);
    events.blocking_send(Ok(SettingsEvent::Settings(samples::settings_view()))).unwrap();
    events
        .blocking_send(Err(Refusal::new(landfall_proto::Class::Refused, "removed", "this node was removed")))
        .unwrap();
    let done = agent.ask(&["settings", "watch"]);
    assert_eq!(agent.fake.take(), [("settings_watch", Value::Null)]);
    assert!(done.out.contains(r#""event":"settings""#), "{done:?}");
    assert!(done.code == 3 && done.err.contains("this node was removed"), "{done:?}");
}

#[test]
fn events_are_lines_of_text_or_of_json() {
    let agent = Agent::start();
    let done = agent.ask(&["event", "tail", "--no-follow", "--recent", "5"]);
    assert_eq!(agent.fake.take(), [("event_tail", json!([5, false]))]);
    let line = "2025-11-22T18:42:41.250Z  warning   owner_changed         r1        r1 owns r-broker-cap.contoso.com\n";
    assert_eq!((done.code, done.out.as_str()), (0, line));
    let done = agent.ask(&["event", "tail", "--no-follow", "-o", "json"]);
    assert_eq!(serde_json::from_str::<Value>(&done.out).unwrap(), serde_json::to_value(samples::event()).unwrap());
    assert_eq!(agent.fake.take(), [("event_tail", json!([20, false]))]);
}

#[test]
fn a_tail_follows_until_its_agent_ends() {
    let mut agent = Agent::start();
    let (out, _err, command) = agent.follow(&["event", "tail"]);
    out.lines(1);
    assert_eq!(agent.fake.take(), [("event_tail", json!([20, true]))]);
    agent.stop();
    assert_eq!(command.join().unwrap(), 5);
}
