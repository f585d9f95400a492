//! Server-sent events, taken apart as they arrive, whatever the pieces.
//! Source: <https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream>.

use crate::config;

/// The mark that a stream in UTF-8 may begin with; it is no part of it.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// An event. Ids and times to reconnect are of no use here and left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    /// Its name; empty where it has none.
    pub(super) name: String,
    /// Its data, the lines joined.
    pub(super) data: String,
}

/// An event is larger than any honest one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooLarge;

/// Takes a stream apart.
#[derive(Debug, Default)]
pub(super) struct Parser {
    line: Vec<u8>,
    name: String,
    data: Option<String>,
    /// The last byte was a carriage return: a line feed behind it belongs to the same end of line.
    after_return: bool,
    begun: bool,
}

impl Parser {
    /// Takes the next piece and gives the events that are complete with it.
    pub(super) fn push(&mut self, mut piece: &[u8]) -> Result<Vec<Event>, TooLarge> {
        let mut events = vec![];
        if !piece.is_empty() && std::mem::take(&mut self.after_return) {
            piece = piece.strip_prefix(b"\n").unwrap_or(piece);
        }
        while let Some(end) = piece.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            self.line.extend_from_slice(&piece[..end]);
            let returned = piece[end] == b'\r';
            piece = &piece[end + 1..];
            if returned {
                match piece.first() {
                    Some(b'\n') => piece = &piece[1..],
                    Some(_) => {}
                    None => self.after_return = true,
                }
            }
            events.extend(self.end_line());
            self.check_size()?;
        }
        self.line.extend_from_slice(piece);
        self.check_size()?;
        Ok(events)
    }

    fn check_size(&self) -> Result<(), TooLarge> {
        let bytes = self.line.len() + self.name.len() + self.data.as_ref().map_or(0, String::len);
        if bytes > config::MODEL_EVENT_BYTES { Err(TooLarge) } else { Ok(()) }
    }

    /// An empty line ends an event; any other adds to it.
    fn end_line(&mut self) -> Option<Event> {
        let line = std::mem::take(&mut self.line);
        let mut line = line.as_slice();
        if !std::mem::replace(&mut self.begun, true) {
            line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
        }
        if line.is_empty() {
            let name = std::mem::take(&mut self.name);
            return self.data.take().map(|data| Event { name, data });
        }
        let colon = line.iter().position(|&byte| byte == b':');
        let (field, value) = colon.map_or((line, &[][..]), |colon| (&line[..colon], &line[colon + 1..]));
        let value = String::from_utf8_lossy(value.strip_prefix(b" ").unwrap_or(value));
        match field {
            b"event" => self.name = value.into_owned(),
            b"data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(&value);
                }
                None => self.data = Some(value.into_owned()),
            },
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STREAM: &str = "\u{feff}: hello\nevent: first\ndata: {\"a\":\ndata: 1}\nid: 7\n\nevent: unsent\n\n\
                          data:no space\r\n\r\ndata\r\rretry: 5\rdata:  zwölf €\r\n\ndata: [DONE]\n\ndata: cut";

    fn event(name: &str, data: &str) -> Event {
        Event { name: name.to_owned(), data: data.to_owned() }
    }

    fn expected() -> Vec<Event> {
        vec![
            event("first", "{\"a\":\n1}"),
            event("", "no space"),
            event("", ""),
            event("", " zwölf €"),
            event("", "[DONE]"),
        ]
    }

    #[test]
    fn a_stream_is_read_by_the_standard() {
        assert_eq!(Parser::default().push(STREAM.as_bytes()).unwrap(), expected());
    }

    #[test]
    fn an_event_without_an_end_is_refused_once_it_is_too_large() {
        let mut parser = Parser::default();
        let line = vec![b'a'; config::MODEL_EVENT_BYTES / 2];
        assert_eq!(parser.push(&line), Ok(vec![]));
        assert_eq!(parser.push(&line), Ok(vec![]));
        assert_eq!(parser.push(b"a"), Err(TooLarge));
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_events(mut cuts in prop::collection::vec(0..STREAM.len(), 0..40)) {
            cuts.sort_unstable();
            let (mut parser, mut events, mut from) = (Parser::default(), vec![], 0);
            for cut in cuts.into_iter().chain([STREAM.len()]) {
                events.extend(parser.push(&STREAM.as_bytes()[from..cut]).unwrap());
                from = cut;
            }
            prop_assert_eq!(events, expected());
        }
    }
}
