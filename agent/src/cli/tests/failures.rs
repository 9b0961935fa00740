//! Exit codes, and how failures are told.

use std::os::unix::net::UnixListener;

use landfall_proto::Class;
use serde_json::Value;

use super::*;

fn error(done: &Done) -> Value {
    assert_eq!((done.out.as_str(), done.err.lines().count()), ("", 1), "{done:?}");
    serde_json::from_str::<Value>(&done.err).unwrap()["error"].clone()
}

#[test]
fn the_class_of_a_refusal_is_the_exit_code() {
    let agent = Agent::start();
    let classes =
        [(Class::Failed, 1), (Class::Usage, 2), (Class::Refused, 3), (Class::NotFound, 4), (Class::Unreachable, 5)];
    for (class, code) in classes {
        let refusal = Refusal::new(class, "stale_epoch", "epoch 3 is old").field("epoch").remedy("ask again");
        *agent.fake.refusal.lock().unwrap() = Some(refusal);
        let done = agent.ask(&["vm", "locate", "web"]);
        assert_eq!(done.code, code);
        let error = error(&done);
        assert_eq!((&error["code"], &error["message"]), (&"stale_epoch".into(), &"epoch 3 is old".into()));
        assert_eq!((&error["field"], &error["remedy"]), (&"epoch".into(), &"ask again".into()));
        let feed = agent.ask(&["settings", "watch"]);
        assert_eq!(feed.code, code, "{feed:?}");
    }
}

#[test]
fn a_person_is_told_in_words_and_a_script_in_json() {
    let agent = Agent::start();
    let refusal = Refusal::new(Class::Refused, "stale_epoch", "epoch 3 is old").remedy("ask again");
    *agent.fake.refusal.lock().unwrap() = Some(refusal);
    let person = agent.ask_as(Reader::Person, &["vm", "list"]);
    assert_eq!(person.err, "error: epoch 3 is old\nremedy: ask again\n");
    for arguments in [["-o", "json", "vm", "list"], ["vm", "list", "--output", "json"]] {
        assert!(agent.ask_as(Reader::Person, &arguments).err.contains(r#"{"error":{"class":"refused""#));
    }
    assert!(agent.ask_as(Reader::Person, &["vm", "list", "-ojson"]).err.contains(r#"{"error":"#));
}

#[test]
fn an_agent_that_is_not_there_is_exit_5_and_says_how_to_start_one() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("none.sock");
    let ask = |arguments: &[&str]| {
        landfall(Reader::Script, "", &[&["--socket", socket.to_str().unwrap()], arguments].concat())
    };
    // No file; then the file of a dead agent.
    for _ in 0..2 {
        for arguments in [&["cluster", "status"][..], &["settings", "watch"], &["settings", "set", "a=b", "--wait"]] {
            let done = ask(arguments);
            let error = error(&done);
            assert_eq!(
                (done.code, error["code"].as_str(), error["field"].as_str()),
                (5, Some("unreachable"), Some("socket"))
            );
            assert!(error["message"].as_str().unwrap().contains(socket.to_str().unwrap()), "{error}");
            assert!(error["remedy"].as_str().unwrap().contains("landfall agent --config"), "{error}");
        }
        if !socket.exists() {
            drop(UnixListener::bind(&socket).unwrap());
        }
    }
}

#[test]
fn an_agent_that_breaks_off_is_exit_5_and_says_that_it_may_be_done() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("dying.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let dying = std::thread::spawn(move || drop(listener.accept().unwrap()));
    let done = landfall(Reader::Script, "", &["--socket", socket.to_str().unwrap(), "cluster", "status"]);
    dying.join().unwrap();
    assert_eq!(done.code, 5, "{done:?}");
    assert!(error(&done)["remedy"].as_str().unwrap().contains("may have been done"));
}

#[test]
fn an_answer_that_is_none_is_a_failure() {
    use std::io::Read;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("odd.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let odd = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = [0; 4096];
        assert!(stream.read(&mut head).unwrap() > 0);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").unwrap();
    });
    let done = landfall(Reader::Script, "", &["--socket", socket.to_str().unwrap(), "cluster", "status"]);
    odd.join().unwrap();
    assert_eq!((done.code, error(&done)["code"].as_str()), (1, Some("answer_not_understood")));
}

#[test]
fn a_line_that_does_not_parse_is_exit_2_and_names_the_argument() {
    let lines: [(&[&str], &str, &str); 13] = [
        (&["vm", "enable", "web"], "required", "--to <CAP>"),
        (&["vm", "enable", "web", "--to", "r.x.com", "--frequency", "31"], "30, 300 or 900", "--frequency"),
        (&["vm", "enable", "web", "--to", "10.0.0.1"], "CAP's name", "--to"),
        (&["vm", "enable", "web", "--to", "r.x.com", "--recovery-points", "25"], "0 to 24", "--recovery-points"),
        (&["vm", "move", "web", "--to", "r2", "--timeout", "5"], "30s, 15m", "--timeout"),
        (&["settings", "set", "novalue"], "KEY=VALUE", "KEY=VALUE"),
        (&["cluster", "init", "--name", "C", "--cap", "short"], "fully qualified", "--cap"),
        (
            &["cluster", "init", "--name", "C", "--cap", "c.x.com", "--cap-address", "10.0.0.5/24"],
            "required",
            "--cap-interface",
        ),
        (
            &["cluster", "init", "--name", "C", "--cap", "c.x.com", "--cap-interface", "eth0"],
            "required",
            "--cap-address",
        ),
        (&["cluster", "init", "--cap-address", "10.0.0.5"], "mask", "--cap-address"),
        (&["cluster", "init", "--cap-interface", "a/b"], "network interface", "--cap-interface"),
        (&["vm", "lst"], "lst", ""),
        (&["vm"], "missing", ""),
    ];
    for (line, word, field) in lines {
        let done = landfall(Reader::Script, "", line);
        let error = error(&done);
        assert_eq!((done.code, error["code"].as_str()), (2, Some("usage")), "{line:?}: {done:?}");
        assert!(error["message"].as_str().unwrap().contains(word), "{line:?}: {error}");
        assert!(error["field"].as_str().unwrap_or_default().contains(field), "{line:?}: {error}");
        let person = landfall(Reader::Person, "", line);
        assert!(person.code == 2 && person.err.contains("--help"), "{person:?}");
    }
}

#[test]
fn an_output_that_nobody_reads_any_more_is_no_failure() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let (agent, err) = (Agent::start(), Stream::default());
    let mut console =
        Console::new(Box::new(Cursor::new(vec![])), Box::new(Closed), Box::new(err.clone()), (false, false));
    let arguments = [&["landfall"], &agent.at(&["vm", "list"])[..]].concat();
    let code = run(arguments.into_iter().map(OsString::from), &mut console, &Remembered::default());
    assert_eq!((code, err.text().as_str()), (0, ""));
}
