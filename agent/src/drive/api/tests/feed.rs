//! Server-sent events, read by the command line's own client.

use landfall_proto::id::Revision;
use landfall_proto::{Class, Refusal};
use tokio::sync::mpsc;

use super::*;
use crate::cli::client::{Client, Message};
use crate::surface::samples;
use crate::surface::settings::SettingsEvent;

async fn watch(served: &Served, path: &str) -> crate::cli::client::Feed {
    soon(Client::new(served.socket.clone()).feed(path)).await.unwrap()
}

#[tokio::test]
async fn events_come_in_order_with_the_mark_to_come_back_with() {
    let served = Served::start();
    let (events, feed) = mpsc::channel(8);
    *served.fake.feed.lock().unwrap() = Some(feed);
    let mut feed = watch(&served, "/v1/settings/watch?from=11").await;
    assert_eq!(served.fake.take(), [("settings_watch", serde_json::json!(11))]);

    for event in SettingsEvent::of_revision(Revision::from_number(12), samples::changes()) {
        events.send(Ok(event)).await.unwrap();
    }
    events.send(Ok(SettingsEvent::Resync { from: Revision::from_number(20) })).await.unwrap();
    events.send(Ok(SettingsEvent::Settings(samples::settings_view()))).await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..4 {
        let Message { event, data, id } = soon(feed.next()).await.unwrap().unwrap();
        let tag = serde_json::from_str::<Value>(&data).unwrap()["event"].clone();
        assert_eq!(tag, event, "the JSON says itself what it is");
        seen.push((event, id));
    }
    let expected = [("change", None), ("change", Some("12")), ("resync", None), ("settings", Some("12"))];
    assert_eq!(seen, expected.map(|(event, id)| (event.to_owned(), id.map(str::to_owned))));

    events.send(Err(Refusal::new(Class::Unreachable, "no_quorum", "no quorum"))).await.unwrap();
    assert_eq!(soon(feed.next()).await.unwrap_err().code, "no_quorum");
    served.stop().await;
}

#[tokio::test]
async fn a_feed_ends_with_the_agent() {
    let served = Served::start();
    let (_events, feed) = mpsc::channel(1);
    *served.fake.feed.lock().unwrap() = Some(feed);
    let mut feed = watch(&served, "/v1/settings/watch").await;
    served.stop().await;
    assert_eq!(soon(feed.next()).await.unwrap(), None);
}

#[tokio::test]
async fn a_quiet_feed_says_that_it_lives() {
    let served = Served::start();
    let mut stream = served.connect().await;
    stream.write_all(b"GET /v1/settings/watch HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut seen = Vec::new();
    soon(async {
        while !String::from_utf8_lossy(&seen).contains("\n:\n") {
            let mut more = [0; 1024];
            let count = stream.read(&mut more).await.unwrap();
            assert!(count > 0, "{seen:?}");
            seen.extend_from_slice(&more[..count]);
        }
    })
    .await;
    served.stop().await;
}

#[tokio::test]
async fn a_feed_that_is_refused_is_an_ordinary_failure() {
    let served = Served::start();
    *served.fake.refusal.lock().unwrap() = Some(Refusal::new(Class::Refused, "no_cluster", "no cluster yet"));
    let refusal = soon(Client::new(served.socket.clone()).feed("/v1/events")).await.unwrap_err();
    assert_eq!((refusal.class, refusal.code.as_str()), (Class::Refused, "no_cluster"));
    served.stop().await;
}
