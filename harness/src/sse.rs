//! Event streams as a client reads them: frames as they come, with their times, and how the stream ended.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use crate::http::{Connection, HttpFault, Pieces, Response};

/// One block of lines up to an empty one; a comment is one of its own, for it needs no empty line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Every field in its order; the name of a comment is empty.
    pub fields: Vec<(String, String)>,
    /// When its last line came.
    pub at: Instant,
}

impl Frame {
    /// The last field of this name.
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.fields.iter().rev();
        fields.find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// What an engine takes as the event's id.
    pub fn id(&self) -> Option<&str> {
        self.field("id")
    }

    /// What an engine dispatches on.
    pub fn event(&self) -> Option<&str> {
        self.field("event")
    }

    /// The `data` lines as an engine joins them; `None` where there is none, and no event is dispatched.
    pub fn data(&self) -> Option<String> {
        let lines = self.fields.iter().filter(|(name, _)| name == "data");
        let lines: Vec<&str> = lines.map(|(_, value)| value.as_str()).collect();
        (!lines.is_empty()).then(|| lines.join("\n"))
    }

    /// Whether it is a comment.
    pub fn is_comment(&self) -> bool {
        self.fields.iter().all(|(name, _)| name.is_empty())
    }
}

/// Reads frames from bytes that are cut anywhere.
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    fields: Vec<(String, String)>,
    after_return: bool,
    has_begun: bool,
}

impl Parser {
    /// The frames that are whole with these bytes, which came at `at`.
    pub fn feed(&mut self, bytes: &[u8], at: Instant) -> Vec<Frame> {
        let mut frames = Vec::new();
        for byte in bytes {
            match byte {
                // The second half of a line end that was taken already.
                b'\n' if self.after_return => self.after_return = false,
                b'\r' | b'\n' => {
                    self.after_return = *byte == b'\r';
                    frames.extend(self.end_line(at));
                }
                byte => {
                    self.after_return = false;
                    self.line.push(*byte);
                }
            }
        }
        frames
    }

    /// What came of a frame that is not whole: its fields and the beginning of a line.
    pub fn rest(&self) -> (&[(String, String)], &[u8]) {
        (&self.fields, &self.line)
    }

    fn end_line(&mut self, at: Instant) -> Option<Frame> {
        let line = std::mem::take(&mut self.line);
        let mut line = String::from_utf8_lossy(&line).into_owned();
        if !std::mem::replace(&mut self.has_begun, true) && line.starts_with('\u{feff}') {
            line.remove(0);
        }
        if line.is_empty() {
            let fields = std::mem::take(&mut self.fields);
            return (!fields.is_empty()).then_some(Frame { fields, at });
        }
        let (name, value) = line.split_once(':').unwrap_or((&line, ""));
        let field = (name.to_owned(), value.strip_prefix(' ').unwrap_or(value).to_owned());
        if name.is_empty() {
            return Some(Frame { fields: vec![field], at });
        }
        self.fields.push(field);
        None
    }
}

/// How a stream ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// As HTTP says, after a whole frame.
    Clean,
    /// As HTTP says, within a frame.
    WithinFrame,
    /// Not as HTTP says.
    Cut(HttpFault),
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Clean => f.write_str("ended as HTTP asks"),
            Self::WithinFrame => f.write_str("ended within an event"),
            Self::Cut(fault) => write!(f, "was cut: {fault}"),
        }
    }
}

/// What a stream shows next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sight {
    /// A frame.
    Frame(Frame),
    /// Its end.
    End(Ending),
    /// Nothing by the deadline.
    Nothing,
}

/// An answer that is read as an event stream, whatever its head says.
#[derive(Debug)]
pub struct EventStream {
    /// The head of the answer.
    pub head: Response,
    body: Pieces,
    parser: Parser,
    ready: VecDeque<Frame>,
    ending: Option<Ending>,
}

impl EventStream {
    /// Sends a request on a connection and reads the head of the answer.
    pub fn open(mut connection: Connection, request: &[u8], deadline: Instant) -> Result<Self, HttpFault> {
        connection.send(request, deadline)?;
        let (head, body) = connection.read_streamed(deadline)?;
        Ok(Self {
            head,
            body,
            parser: Parser::default(),
            ready: VecDeque::new(),
            ending: None,
        })
    }

    /// The next frame, the end, or nothing by the deadline.
    pub fn next(&mut self, deadline: Instant) -> Sight {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Sight::Frame(frame);
            }
            if let Some(ending) = &self.ending {
                return Sight::End(ending.clone());
            }
            match self.body.next(deadline) {
                Ok(Some(piece)) => self.ready.extend(self.parser.feed(&piece, Instant::now())),
                Ok(None) => {
                    let (fields, line) = self.parser.rest();
                    let whole = fields.is_empty() && line.is_empty();
                    self.ending = Some(if whole { Ending::Clean } else { Ending::WithinFrame });
                }
                Err(HttpFault::TimedOut) => return Sight::Nothing,
                Err(fault) => self.ending = Some(Ending::Cut(fault)),
            }
        }
    }

    /// The client's own end of the connection.
    pub fn local(&self) -> Result<SocketAddr, HttpFault> {
        self.body.local()
    }

    /// The connection, to be closed in a way of one's own.
    pub fn into_connection(self) -> Connection {
        self.body.into_connection()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use proptest::prelude::*;

    use super::*;
    use crate::wait::ms;

    const TEXT: &str = "\u{feff}retry: 500\n\n: hello\nid: a-1\r\nevent: note\rdata: {\"n\":\ndata:  1}\n\n\
                        :\n\n\ndata\nid\n\nfield without: colon\r\n\r\n";

    fn parse(parts: &[&[u8]]) -> Vec<Vec<(String, String)>> {
        let (mut parser, at) = (Parser::default(), Instant::now());
        let frames = parts.iter().flat_map(|part| parser.feed(part, at));
        frames.map(|frame| frame.fields).collect()
    }

    fn fields(fields: &[(&str, &str)]) -> Vec<(String, String)> {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        fields.iter().map(own).collect()
    }

    #[test]
    fn frames_are_read_as_an_engine_reads_them() {
        let expected = [
            fields(&[("retry", "500")]),
            fields(&[("", "hello")]),
            fields(&[
                ("id", "a-1"),
                ("event", "note"),
                ("data", "{\"n\":"),
                ("data", " 1}"),
            ]),
            fields(&[("", "")]),
            fields(&[("data", ""), ("id", "")]),
            fields(&[("field without", "colon")]),
        ];
        assert_eq!(parse(&[TEXT.as_bytes()]), expected);
        let (mut parser, at) = (Parser::default(), Instant::now());
        let frames = parser.feed(TEXT.as_bytes(), at);
        assert_eq!(frames[2].data().as_deref(), Some("{\"n\":\n 1}"));
        assert_eq!((frames[2].id(), frames[2].event()), (Some("a-1"), Some("note")));
        assert!(frames[1].is_comment() && frames[3].is_comment() && !frames[0].is_comment());
        assert_eq!(frames[0].data(), None);
    }

    proptest! {
        #[test]
        fn wherever_the_bytes_are_cut_the_frames_are_the_same(cuts in proptest::collection::vec(0..TEXT.len(), 0..6)) {
            let mut cuts = cuts;
            cuts.extend([0, TEXT.len()]);
            cuts.sort_unstable();
            let parts: Vec<&[u8]> = cuts.windows(2).map(|cut| &TEXT.as_bytes()[cut[0]..cut[1]]).collect();
            prop_assert_eq!(parse(&parts), parse(&[TEXT.as_bytes()]));
        }

        #[test]
        fn no_bytes_make_the_parser_panic(bytes: Vec<u8>) {
            Parser::default().feed(&bytes, Instant::now());
        }
    }

    /// What a server that sends `answer` in these parts and then closes is seen to do.
    fn seen(answer: &'static [&'static [u8]]) -> (u16, Vec<Sight>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut [0; 4]).unwrap();
            for part in answer {
                stream.write_all(part).unwrap();
                stream.flush().unwrap();
            }
        });
        let connection = Connection::open(address, ms(2_000)).unwrap();
        let mut stream = EventStream::open(connection, b"GET ", ms(2_000)).unwrap();
        let mut sights = Vec::new();
        loop {
            sights.push(stream.next(ms(2_000)));
            if !matches!(sights.last(), Some(Sight::Frame(_))) {
                server.join().unwrap();
                return (stream.head.status, sights);
            }
        }
    }

    #[test]
    fn a_clean_end_and_a_cut_one_are_told_apart() {
        let head: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let frame: &[u8] = b"9\r\nevent: a\n\r\n1\r\n\n\r\n";
        let ends = |answer| match seen(answer) {
            (200, mut sights) => {
                let end = sights.pop();
                (sights.len(), end.unwrap())
            }
            other => panic!("{other:?}"),
        };
        // Leaked for the thread's sake, a few bytes.
        let answer = |parts: &[&'static [u8]]| &*Vec::leak(parts.to_vec());
        assert_eq!(ends(answer(&[head, frame, b"0\r\n\r\n"])), (1, Sight::End(Ending::Clean)));
        assert_eq!(
            ends(answer(&[head, frame, b"0\r\n", b"Trailer: x\r\n\r\n"])),
            (1, Sight::End(Ending::Clean))
        );
        assert_eq!(ends(answer(&[head, frame])), (1, Sight::End(Ending::Cut(HttpFault::Closed(0)))));
        assert_eq!(ends(answer(&[head, &frame[..14], b"0\r\n\r\n"])), (0, Sight::End(Ending::WithinFrame)));
        let closing: &[u8] = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nevent: a\n\n";
        assert_eq!(ends(answer(&[closing])), (1, Sight::End(Ending::Clean)));
        let length: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nevent: a\n\nevent: b\n\n";
        assert_eq!(ends(answer(&[length])), (1, Sight::End(Ending::Clean)));
    }
}
