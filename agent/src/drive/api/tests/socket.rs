//! Who gets the socket, and who may open it.

use std::os::unix::net::UnixListener as StdListener;

use landfall_proto::Class;

use super::*;

#[tokio::test]
async fn only_its_own_user_can_open_it_and_it_goes_with_its_agent() {
    let served = Served::start();
    assert_eq!(mode(&served.socket), 0o600);
    assert_eq!(served.ask("GET", "/v1/broker", "").await.0, 200);
    let socket = served.stop().await;
    assert!(!socket.exists());
}

#[tokio::test]
async fn a_missing_folder_is_made_for_its_own_user() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run/landfall.sock");
    let socket = LocalSocket::bind(&path).unwrap();
    assert_eq!((mode(path.parent().unwrap()), socket.path()), (0o700, path.as_path()));
}

#[tokio::test]
async fn a_dead_agents_socket_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("landfall.sock");
    // A listener that goes without removing its file: what a killed agent leaves.
    drop(StdListener::bind(&path).unwrap());
    assert!(UnixStream::connect(&path).await.is_err());
    let socket = LocalSocket::bind(&path).unwrap();
    let (fake, (stop, stopped)) = (Arc::new(Fake::default()), oneshot::channel::<()>());
    let server = tokio::spawn(serve(socket, fake, async { drop(stopped.await) }));
    let mut stream = UnixStream::connect(&path).await.unwrap();
    assert_eq!(soon(exchange(&mut stream, "GET", "/v1/broker", "")).await.0, 200);
    drop(stop);
    soon(server).await.unwrap();
}

#[tokio::test]
async fn a_live_agents_socket_is_not_taken() {
    let served = Served::start();
    let refusal = LocalSocket::bind(&served.socket).unwrap_err();
    assert_eq!((refusal.class, refusal.code.as_str()), (Class::Refused, "socket_in_use"));
    assert!(refusal.message.contains(served.socket.to_str().unwrap()), "{refusal}");
    assert_eq!(served.ask("GET", "/v1/broker", "").await.0, 200, "the live one still answers");
    let socket = served.stop().await;
    LocalSocket::bind(&socket).expect("free once its agent is gone");
}

#[tokio::test]
async fn another_programs_socket_or_file_is_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("landfall.sock");
    let foreign = StdListener::bind(&path).unwrap();
    assert_eq!(LocalSocket::bind(&path).unwrap_err().code, "socket_in_use");
    drop(foreign);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "somebody's notes").unwrap();
    assert_eq!(LocalSocket::bind(&path).unwrap_err().code, "not_a_socket");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "somebody's notes");
}

#[tokio::test]
async fn a_path_that_the_kernel_cannot_take_is_named() {
    let refusal = LocalSocket::bind(Path::new(&format!("/tmp/{}", "x".repeat(200)))).unwrap_err();
    assert_eq!((refusal.class, refusal.field.as_deref()), (Class::Usage, Some("socket")));
    assert!(refusal.remedy.unwrap().contains("107"));
}

#[tokio::test]
async fn dropping_a_socket_leaves_one_that_took_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("landfall.sock");
    let socket = LocalSocket::bind(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let _other = StdListener::bind(&path).unwrap();
    drop(socket);
    assert!(path.exists());
}
