//! Past a bound the caller gets an error, and the agent goes on.

use super::super::limits::{BODY_MAX, CONNECTIONS_MAX, FEEDS_MAX, REPORT_MAX, TURNED_AWAY_MAX};
use super::*;
use crate::surface::samples;

#[tokio::test]
async fn a_connection_too_many_is_told_so_and_the_next_after_one_ends_is_served() {
    let served = Served::start();
    let mut open = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        // Answered, so it has its place for certain; kept open.
        let mut stream = served.connect().await;
        stream.write_all(b"GET /v1/broker HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        assert!(soon(stream.read(&mut [0; 12])).await.unwrap() > 0);
        open.push(stream);
    }
    let (status, body) = served.ask("GET", "/v1/broker", "").await;
    assert_eq!((status, body["error"]["code"].as_str()), (503, Some("busy")));
    assert!(body["error"]["message"].as_str().unwrap().contains("64 local connections"), "{body}");

    // More than are even told so: closed without an answer, and without harm.
    let idle = soon(async {
        let mut idle = Vec::new();
        for _ in 0..=TURNED_AWAY_MAX {
            idle.push(served.connect().await);
        }
        idle
    });
    let mut idle = idle.await;
    let last = idle.last_mut().unwrap();
    assert_eq!(soon(last.read(&mut [0; 1])).await.unwrap_or(0), 0);

    drop((open, idle));
    // The server frees a place when it sees the end of a connection.
    soon(async { while !answers(&served).await {} }).await;
    served.stop().await;
}

/// Whether a request is answered now; until places are free it may be turned away, or closed without a word.
async fn answers(served: &Served) -> bool {
    let (mut stream, mut text) = (served.connect().await, Vec::new());
    let asked = stream.write_all(b"GET /v1/broker HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    asked.is_ok() && stream.read_to_end(&mut text).await.is_ok() && text.starts_with(b"HTTP/1.1 200")
}

#[tokio::test]
async fn a_body_too_long_is_refused_and_a_report_may_be_longer() {
    let served = Served::start();
    let long = format!(r#"{{"token": "{}"}}"#, "x".repeat(BODY_MAX));
    let (status, body) = served.ask("POST", "/v1/cluster/join", &long).await;
    assert_eq!((status, body["error"]["code"].as_str()), (413, Some("body_too_large")));
    assert_eq!(body["error"]["class"], "usage");

    let mut report = samples::vm_service_status();
    report.vms = vec![report.vms[0].clone(); 2000];
    let report = serde_json::to_string(&report).unwrap();
    assert!(report.len() > 4 * BODY_MAX && report.len() < REPORT_MAX);
    assert_eq!(served.ask("PUT", "/v1/vm-service/status", &report).await.0, 200);
    served.stop().await;
}

#[tokio::test]
async fn a_feed_too_many_is_refused_and_commands_go_on() {
    let served = Served::start();
    let mut feeds = Vec::new();
    for _ in 0..FEEDS_MAX {
        let mut stream = served.connect().await;
        stream.write_all(b"GET /v1/settings/watch HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut head = [0; 15];
        soon(stream.read_exact(&mut head)).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 200 OK");
        feeds.push(stream);
    }
    let (status, body) = served.ask("GET", "/v1/settings/watch", "").await;
    assert_eq!((status, body["error"]["code"].as_str()), (503, Some("busy")));
    assert_eq!(served.ask("GET", "/v1/settings", "").await.0, 200);
    drop(feeds);
    served.stop().await;
}

#[tokio::test]
async fn what_was_asked_is_done_though_the_caller_hangs_up() {
    let served = Served::start();
    served.fake.gate.forget_permits(1000);
    let mut stream = served.connect().await;
    let body = r#"{"to": "r2"}"#;
    let head = format!("POST /v1/vms/a/move HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    soon(async {
        while served.fake.calls.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(stream);
    // Served after the hang-up, so the server has had its chance to see it.
    assert_eq!(served.ask("GET", "/v1/broker", "").await.0, 200);
    served.fake.gate.add_permits(1);
    drop(soon(served.fake.moved.acquire()).await.unwrap());
    served.stop().await;
}

#[tokio::test]
async fn a_panic_costs_one_answer() {
    let served = Served::start();
    let (status, body) = served.ask("GET", "/v1/vms/panic", "").await;
    assert_eq!((status, body["error"]["code"].as_str()), (500, Some("internal")));
    assert_eq!(served.ask("GET", "/v1/vms/a", "").await.0, 200);
    served.stop().await;
}

#[tokio::test]
async fn idle_connections_do_not_delay_the_end() {
    let served = Served::start();
    let mut idle = served.connect().await;
    idle.write_all(b"GET /v1/broker HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert!(soon(idle.read(&mut [0; 12])).await.unwrap() > 0);
    let _silent = served.connect().await;
    let begun = std::time::Instant::now();
    served.stop().await;
    assert!(begun.elapsed() < super::super::limits::GRACE, "{:?}", begun.elapsed());
}
