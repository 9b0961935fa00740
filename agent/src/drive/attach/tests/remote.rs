//! Every method through the socket and back.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use landfall_proto::Class;
use landfall_proto::id::Epoch;
use landfall_proto::message::control::Consistency;
use landfall_proto::model::{DiskSpec, VmSpec};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use super::*;
use crate::drive::attach::{Remote, listen, serve, wire};
use crate::drive::directory::tests::vm_id;
use crate::vm_service::{FreezeMethod, Image, ImageFormat, VmRole, VmState};

fn served(service: Arc<Scripted>, folder: &Path) -> Remote {
    let socket = folder.join("s.sock");
    let listener = listen(&socket).unwrap();
    tokio::spawn(serve(service, listener, std::future::pending()));
    Remote::new(socket)
}

fn spec() -> VmSpec {
    let disks = vec![DiskSpec { target: "vda".parse().unwrap(), bytes: 1 << 40 }];
    VmSpec {
        id: vm_id(7),
        name: "Ünï \"code\"".parse().unwrap(),
        disks,
        adapters: Vec::new(),
        launch: Default::default(),
    }
}

fn scripted() -> Scripted {
    let image = Image {
        target: "vda".parse().unwrap(),
        path: "/vms/a/disk.raw".into(),
        format: ImageFormat::Qcow2,
        bytes: 1 << 40,
    };
    let report = VmReport {
        vm: spec(),
        role: VmRole::Primary,
        state: VmState::Running,
        run: 1 << 45,
        stopped_only: true,
        images: vec![image.clone()],
        fault: Some(Refusal::new(Class::Refused, "duplicate_vm", "twice").field("uuid").remedy("remove one")),
    };
    let storage = StorageReport {
        name: "default".parse().unwrap(),
        path: "/srv".into(),
        free_bytes: 5,
        fault: Some("slow".into()),
    };
    let frozen = Frozen {
        freeze: FreezeId(9),
        method: FreezeMethod::Stopped,
        consistency: Consistency::Crash,
        images: vec![image],
        run: 4,
    };
    Scripted { vms: vec![report], storage: vec![storage], frozen: Some(frozen), ..Scripted::default() }
}

#[tokio::test]
async fn every_call_and_every_answer_survives_the_socket() {
    let folder = tempfile::tempdir().unwrap();
    let service = Arc::new(scripted());
    let remote = served(service.clone(), folder.path());
    let registration = Registration {
        vm: spec(),
        primary: "p-cap.contoso.com".parse().unwrap(),
        epoch: Epoch::from_number(1 << 50),
        folder: "/srv/x".into(),
        run: None,
    };
    remote.probe().await.unwrap();
    assert_eq!(remote.list().await.unwrap(), service.vms);
    assert_eq!(remote.storage().await.unwrap(), service.storage);
    remote.apply_settings(&SettingsView::default()).await.unwrap();
    remote.register(&registration).await.unwrap();
    remote.unregister(vm_id(7)).await.unwrap();
    remote.start(vm_id(7)).await.unwrap();
    remote.stop(vm_id(7)).await.unwrap();
    remote.lock(vm_id(7), true).await.unwrap();
    remote.lock(vm_id(7), false).await.unwrap();
    assert_eq!(remote.freeze(vm_id(7), Duration::from_millis(1500)).await.unwrap(), service.frozen.clone().unwrap());
    assert!(remote.thaw(FreezeId(9)).await.unwrap().held);
    let id = vm_id(7);
    let expected = [
        "probe".to_owned(),
        "list".to_owned(),
        "storage".to_owned(),
        "apply 0 {}".to_owned(),
        format!("register {registration:?}"),
        format!("unregister {id}"),
        format!("start {id}"),
        format!("stop {id}"),
        format!("lock {id} true"),
        format!("lock {id} false"),
        format!("freeze {id} 1500"),
        "thaw 9".to_owned(),
    ];
    assert_eq!(service.calls(), expected);
}

#[tokio::test]
async fn a_refusal_comes_back_whole() {
    let folder = tempfile::tempdir().unwrap();
    let service = Arc::new(scripted());
    let remote = served(service.clone(), folder.path());
    for class in [Class::Failed, Class::Usage, Class::Refused, Class::NotFound, Class::Unreachable] {
        let refusal = Refusal::new(class, "some_code", "it is 'so'").field("vm").remedy("do this");
        *service.refusal.lock().unwrap() = Some(refusal.clone());
        assert_eq!(remote.start(vm_id(7)).await.unwrap_err(), refusal);
        assert_eq!(remote.list().await.unwrap_err(), refusal);
        assert_eq!(remote.freeze(vm_id(7), Duration::from_secs(1)).await.unwrap_err(), refusal);
    }
}

/// One request, by hand; the answer, once it has come to `end`.
async fn raw(socket: &Path, request: &str, end: &str) -> String {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !String::from_utf8_lossy(&answer).contains(end) {
        let read = tokio::time::timeout(Duration::from_secs(30), stream.read_buf(&mut answer)).await;
        assert!(read.unwrap().unwrap() > 0, "closed after {:?}", String::from_utf8_lossy(&answer));
    }
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_with_its_field() {
    let folder = tempfile::tempdir().unwrap();
    let _remote = served(Arc::new(scripted()), folder.path());
    let socket = folder.path().join("s.sock");
    let request = |line: &str, body: &str| {
        format!("{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    };
    for (line, body, status, word) in [
        ("PUT /v1/settings", "{", "400", "invalid_body"),
        ("POST /v1/vms/nonsense/start", "", "400", "uuid"),
        ("POST /v1/freezes/x/thaw", "", "400", "freeze"),
        ("POST /v1/vms/6f1c2a52-0b0f-4c6e-9f2e-3a51d0a1c001/freeze", "{\"hold_ms\":-1}", "400", "invalid_body"),
        ("GET /v1/weather", "", "404", "not_found"),
    ] {
        let answer = raw(&socket, &request(line, body), "}}").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(word), "{line}: {answer}");
        assert!(answer.contains("\"error\""), "{line}: {answer}");
    }
}

#[tokio::test]
async fn a_body_past_the_bound_reaches_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let service = Arc::new(scripted());
    let remote = served(service.clone(), folder.path());
    let settings = [("key".to_owned(), "x".repeat(wire::BODY_MAX))].into();
    remote.apply_settings(&SettingsView { settings, ..SettingsView::default() }).await.unwrap_err();
    assert_eq!(service.calls(), Vec::<String>::new());
    remote.probe().await.unwrap();
}

#[tokio::test]
async fn silence_and_nonsense_are_told_as_an_unreachable_service() {
    let folder = tempfile::tempdir().unwrap();
    let nobody = Remote::new(folder.path().join("none.sock"));
    assert_eq!(nobody.probe().await.unwrap_err().code, "vm_service_unreachable");
    let silent = UnixListener::bind(folder.path().join("silent.sock")).unwrap();
    let refusal = Remote::new(folder.path().join("silent.sock")).list().await.unwrap_err();
    assert_eq!((refusal.code.as_str(), refusal.class), ("vm_service_unreachable", Class::Unreachable));
    assert!(refusal.message.contains("silent.sock") && refusal.is_retryable(), "{refusal}");
    drop(silent);
    let babbling = UnixListener::bind(folder.path().join("babble.sock")).unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = babbling.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc").await.unwrap();
        std::future::pending::<()>().await;
    });
    let refusal = Remote::new(folder.path().join("babble.sock")).list().await.unwrap_err();
    assert_eq!(refusal.code, "vm_service_unreachable");
}

#[tokio::test]
async fn a_connection_is_kept_and_replaced_when_the_other_end_has_closed_it() {
    let folder = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(folder.path().join("s.sock")).unwrap();
    let (accepted, mut connections) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        // Two answers a connection, then it is closed, as by a service that starts again.
        while let Ok((mut stream, _)) = listener.accept().await {
            accepted.send(()).unwrap();
            for _ in 0..2 {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    assert!(stream.read_buf(&mut request).await.unwrap() > 0, "closed by the client");
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnull").await.unwrap();
            }
        }
    });
    let remote = Remote::new(folder.path().join("s.sock"));
    for _ in 0..6 {
        remote.unregister(vm_id(7)).await.unwrap();
    }
    let mut count = 0;
    while connections.try_recv().is_ok() {
        count += 1;
    }
    assert_eq!(count, 3, "two requests a connection");
}

#[tokio::test]
async fn the_socket_is_this_users_alone_and_replaces_a_stale_one() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s.sock");
    drop(listen(&socket).unwrap());
    let _again = listen(&socket).unwrap();
    assert_eq!(socket.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let long = folder.path().join("x".repeat(120));
    assert!(listen(&long).unwrap_err().remedy.unwrap().contains("shorter"));
}
