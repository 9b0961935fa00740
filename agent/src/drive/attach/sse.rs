//! Server-sent events, read from bytes as they come (the event stream format of the HTML standard).

use super::wire::EVENT_MAX;

/// One event: its name and its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub name: String,
    pub data: String,
}

/// What of an event has come so far.
#[derive(Debug, Default)]
pub(super) struct Parser {
    line: Vec<u8>,
    name: String,
    data: String,
}

/// An event longer than [`EVENT_MAX`], or one that is not UTF-8.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("an event that is too long or not UTF-8")]
pub(super) struct Malformed;

impl Parser {
    /// Takes more bytes; returns the events that they complete. Comments and unknown fields are passed over.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<Vec<Event>, Malformed> {
        let mut events = Vec::new();
        for byte in bytes {
            if *byte != b'\n' {
                if self.line.len() + self.data.len() >= EVENT_MAX {
                    return Err(Malformed);
                }
                self.line.push(*byte);
                continue;
            }
            let line = String::from_utf8(std::mem::take(&mut self.line)).map_err(|_| Malformed)?;
            events.extend(self.end_line(line.strip_suffix('\r').unwrap_or(&line)));
        }
        Ok(events)
    }

    fn end_line(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            let (name, data) = (std::mem::take(&mut self.name), std::mem::take(&mut self.data));
            return (!data.is_empty()).then(|| Event { name, data: data.trim_end_matches('\n').to_owned() });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, data: &str) -> Event {
        Event { name: name.to_owned(), data: data.to_owned() }
    }

    #[test]
    fn events_come_out_the_same_wherever_the_bytes_are_cut() {
        let text = b": hello\n\nevent: change\r\ndata: {\"a\":\r\ndata: 1}\r\n\r\nid: 7\nevent:settings\ndata:x\n\n";
        let expected = [event("change", "{\"a\":\n1}"), event("settings", "x")];
        for cut in 0..text.len() {
            let mut parser = Parser::default();
            let mut events = parser.push(&text[..cut]).unwrap();
            events.extend(parser.push(&text[cut..]).unwrap());
            assert_eq!(events, expected, "cut at {cut}");
        }
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut parser = Parser::default();
        let line = [b"data: ".as_slice(), &vec![b'x'; EVENT_MAX / 2], b"\n"].concat();
        assert!(parser.push(&line).is_ok());
        assert_eq!(parser.push(&line), Err(Malformed));
    }
}
