//! The link against a small agent that restarts, resyncs and misbehaves.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::routing::{get, put};
use axum::{Json, Router};
use futures_util::StreamExt;
use landfall_proto::Class;
use landfall_proto::id::Revision;
use tokio::runtime::Runtime;

use super::*;
use crate::drive::attach::wire::{self, Applied, Change, FeedEvent, Health, Resync, Status};
use crate::drive::attach::{Link, SocketLink, listen};
use crate::drive::directory::tests::until;

/// What the agent remembers, over its restarts, for the test to see.
#[derive(Default)]
struct Notes {
    /// What each new stream carries before it goes quiet.
    scripts: Mutex<VecDeque<Vec<FeedEvent>>>,
    /// Where each stream was asked to begin.
    froms: Mutex<Vec<Option<u64>>>,
    applied: Mutex<Vec<u64>>,
    status: Mutex<Option<Status>>,
}

/// An agent's local API, as much as a VM service uses; gone with all its connections when dropped.
struct Agent(Option<Runtime>);

impl Agent {
    fn start(socket: &Path, notes: &Arc<Notes>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let router = Router::new()
            .route(wire::SETTINGS_WATCH, get(watch))
            .route(wire::APPLIED, put(applied))
            .route(wire::STATUS, put(status))
            .with_state(notes.clone());
        let _guard = runtime.enter();
        let listener = listen(socket).unwrap();
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self(Some(runtime))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.0.take().unwrap().shutdown_background();
    }
}

async fn watch(
    State(notes): State<Arc<Notes>>,
    Query(query): Query<BTreeMap<String, u64>>,
) -> Sse<impl futures_util::Stream<Item = Result<Event, Infallible>>> {
    notes.froms.lock().unwrap().push(query.get("from").copied());
    let script = notes.scripts.lock().unwrap().pop_front().unwrap_or_default();
    let events = script.into_iter().map(|event| {
        let (name, data) = event.encode().unwrap();
        Ok(Event::default().event(name).data(data))
    });
    let stream = futures_util::stream::iter(events).chain(futures_util::stream::pending());
    Sse::new(stream).keep_alive(KeepAlive::new().interval(wire::KEEP_ALIVE))
}

async fn applied(State(notes): State<Arc<Notes>>, body: Bytes) -> Json<()> {
    let body: Applied = serde_json::from_slice(&body).unwrap();
    notes.applied.lock().unwrap().push(body.revision.number());
    Json(())
}

async fn status(State(notes): State<Arc<Notes>>, body: Bytes) -> Json<()> {
    *notes.status.lock().unwrap() = Some(serde_json::from_slice(&body).unwrap());
    Json(())
}

fn view(revision: u64, settings: &[(&str, &str)]) -> FeedEvent {
    let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    FeedEvent::Settings(SettingsView { revision: Revision::from_number(revision), settings })
}

fn change(revision: u64, key: &str, old: &str, new: &str, more: bool) -> FeedEvent {
    let (old, new) = (Some(old.to_owned()), Some(new.to_owned()));
    FeedEvent::Change(Change { key: key.to_owned(), old, new, revision: Revision::from_number(revision), more })
}

struct Bench {
    _folder: tempfile::TempDir,
    socket: PathBuf,
    notes: Arc<Notes>,
    service: Arc<Scripted>,
}

impl Bench {
    /// A link that runs from now on, whether there is an agent or not.
    fn new(scripts: Vec<Vec<FeedEvent>>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("agent.sock");
        let notes = Arc::new(Notes { scripts: Mutex::new(scripts.into()), ..Notes::default() });
        let service = Arc::new(Scripted::default());
        let link = Link::new(service.clone(), Arc::new(SocketLink::new(&socket)));
        tokio::spawn(async move { link.run().await });
        Self { _folder: folder, socket, notes, service }
    }

    fn agent(&self) -> Agent {
        Agent::start(&self.socket, &self.notes)
    }

    async fn acknowledged(&self, expected: &[u64]) {
        until("the acknowledgements", async || (*self.notes.applied.lock().unwrap() == expected).then_some(())).await;
    }

    fn applications(&self) -> Vec<String> {
        self.service.calls().into_iter().filter(|call| call.starts_with("apply")).collect()
    }

    fn froms(&self) -> Vec<Option<u64>> {
        self.notes.froms.lock().unwrap().clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_applied_in_order_a_whole_revision_at_a_time() {
    let bench = Bench::new(vec![vec![
        view(3, &[("a", "1"), ("b", "1")]),
        change(5, "a", "1", "2", true),
        change(5, "b", "1", "2", false),
        change(8, "a", "2", "3", false),
    ]]);
    let _agent = bench.agent();
    bench.acknowledged(&[3, 5, 8]).await;
    let expected =
        [r#"apply 3 {"a": "1", "b": "1"}"#, r#"apply 5 {"a": "2", "b": "2"}"#, r#"apply 8 {"a": "3", "b": "2"}"#];
    assert_eq!(bench.applications(), expected);
    assert_eq!(bench.froms(), [None]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_restarts_is_found_again_where_it_was_left() {
    let bench = Bench::new(vec![
        vec![view(3, &[("a", "1")]), change(4, "a", "1", "2", true)],
        vec![change(4, "a", "1", "2", false), change(6, "a", "2", "3", false)],
    ]);
    let agent = bench.agent();
    bench.acknowledged(&[3]).await;
    until("a status", async || bench.notes.status.lock().unwrap().take()).await;
    drop(agent);
    let _agent = bench.agent();
    // Revision 4 was never complete, so that it is asked for again; 3 is told anew to an agent that forgot it.
    bench.acknowledged(&[3, 3, 4, 6]).await;
    assert_eq!(bench.froms(), [None, Some(3)]);
    assert_eq!(bench.applications().len(), 3);
    let status = until("a status again", async || bench.notes.status.lock().unwrap().take()).await;
    assert_eq!((status.state, status.reason, status.pid), (Health::Running, None, std::process::id()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resync_forgets_what_was_and_takes_the_view_whatever_its_revision() {
    let bench = Bench::new(vec![vec![
        view(9, &[("a", "1")]),
        FeedEvent::Resync(Resync { from: Revision::from_number(2) }),
        view(2, &[("a", "7")]),
        change(3, "a", "7", "8", false),
    ]]);
    let _agent = bench.agent();
    bench.acknowledged(&[9, 2, 3]).await;
    assert_eq!(bench.applications()[2], r#"apply 3 {"a": "8"}"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_does_not_fit_brings_the_whole_view_again() {
    for wrong in [change(4, "a", "5", "2", false), change(2, "a", "1", "2", false)] {
        let bench = Bench::new(vec![vec![view(3, &[("a", "1")]), wrong], vec![view(4, &[("a", "2")])]]);
        let _agent = bench.agent();
        bench.acknowledged(&[3, 4]).await;
        assert_eq!(bench.froms(), [None, None]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_applied_is_not_acknowledged_and_is_tried_again() {
    let bench = Bench::new((0..200).map(|_| vec![view(3, &[("a", "1")])]).collect());
    *bench.service.refusal.lock().unwrap() = Some(Refusal::new(Class::Failed, "disk_full", "no room"));
    let _agent = bench.agent();
    let status = until("a status", async || bench.notes.status.lock().unwrap().take()).await;
    assert_eq!(status.state, Health::Degraded);
    assert!(status.reason.unwrap().contains("no room"));
    until("a second attempt", async || (bench.applications().len() > 1).then_some(())).await;
    assert!(bench.notes.applied.lock().unwrap().is_empty());
    *bench.service.refusal.lock().unwrap() = None;
    bench.acknowledged(&[3]).await;
}
