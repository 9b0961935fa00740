//! The local API without the command line: what a script that keeps its connection would do.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use landfall_kit::process::Node;
use serde_json::Value;

/// How long one answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// A connection to an agent's socket.
pub struct Api {
    stream: BufReader<UnixStream>,
}

impl Api {
    /// Connects to the agent of `node`.
    pub fn at(node: &Node) -> Self {
        let stream = UnixStream::connect(node.socket()).expect("the agent listens");
        stream.set_read_timeout(Some(ANSWER_MAX)).expect("a socket has timeouts");
        Self { stream: BufReader::new(stream) }
    }

    /// One request with its status and answer; the connection stays.
    pub fn ask(&mut self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let body = body.to_string();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: landfall\r\ncontent-type: application/json\r\n");
        self.send(&format!("{head}content-length: {}\r\n\r\n{body}", body.len()));
        let (status, length) = self.head();
        let mut body = vec![0; length.expect("an answer has a length")];
        self.stream.read_exact(&mut body).expect("the answer is whole");
        (status, serde_json::from_slice(&body).expect("the answer is JSON"))
    }

    /// Begins the event stream at `path`: its status line and headers are read, nothing of what follows.
    pub fn open_stream(&mut self, path: &str) {
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: landfall\r\n\r\n"));
        let (status, _) = self.head();
        assert_eq!(status, 200, "the stream at {path}");
    }

    /// The next event's name and data.
    pub fn next_event(&mut self) -> (String, Value) {
        let (mut name, mut data) = (String::new(), None);
        loop {
            let line = self.line();
            // What is not part of an event is a chunk's length, a comment, or an empty line.
            if let Some(found) = line.strip_prefix("event: ") {
                name = found.to_owned();
            } else if let Some(found) = line.strip_prefix("data: ") {
                data = Some(serde_json::from_str(found).expect("an event's data is JSON"));
            } else if line.is_empty()
                && let Some(data) = data.take()
            {
                return (name, data);
            }
        }
    }

    fn send(&mut self, text: &str) {
        self.stream.get_mut().write_all(text.as_bytes()).expect("the agent reads");
    }

    fn head(&mut self) -> (u16, Option<usize>) {
        let status = self.line();
        let status = status.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line");
        let mut length = None;
        loop {
            let line = self.line().to_ascii_lowercase();
            if line.is_empty() {
                return (status, length);
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().ok();
            }
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("the agent answers in time");
        assert!(!line.is_empty(), "the agent has closed the connection");
        line.trim_end().to_owned()
    }
}
