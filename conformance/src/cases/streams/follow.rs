//! What the cases of the chapter do and look at alike: streams opened and followed, notes posted, frames judged.

use std::time::{Duration, Instant};

use local_daemon_harness::http::{Connection, HttpFault, Request, Response};
use local_daemon_harness::proof;
use local_daemon_harness::sse::{Ending, EventStream, Frame, Sight};
use serde_json::Value;

use crate::outcome::{Outcome, Stop};
use crate::stage::{Daemon, Live, Stage};

/// How late a busy host may show an event that has happened.
pub(crate) const SEEN: Duration = Duration::from_secs(5);
/// How long a stream may be silent (STR-27).
pub(crate) const SILENT: Duration = Duration::from_secs(15);
/// What a log holds at most, unless configured otherwise (STR-21).
pub(crate) const MOST_EVENTS: u64 = 4_096;
/// The same in bytes.
pub(crate) const MOST_BYTES: usize = 4 * 1024 * 1024;
/// The longest note (STR-8).
pub(crate) const LONGEST_NOTE: usize = 64 * 1024;
/// A note that is nearly the longest.
pub(crate) const LARGE: usize = 60_000;

/// The topics of events in the log.
pub(crate) const LOGGED: [&str; 6] = ["lifecycle", "warning", "origins", "sessions", "proxies", "note"];
/// The events that are about the stream itself.
pub(crate) const ABOUT: [&str; 3] = ["gap", "superseded", "shutdown"];

/// The epoch of a daemon's stream.
pub(crate) fn epoch(live: &Live) -> &str {
    &live.record.id[..8]
}

/// The id of an event of a daemon.
pub(crate) fn id(live: &Live, seq: u64) -> String {
    format!("{}-{seq}", epoch(live))
}

/// The number in an id of the right form (STR-10): of any epoch.
pub(crate) fn split(id: &str) -> Option<(&str, u64)> {
    let (epoch, seq) = id.split_once('-')?;
    let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let digits = seq.bytes().all(|byte| byte.is_ascii_digit()) && !seq.starts_with('0');
    (epoch.len() == 8 && epoch.bytes().all(hex) && digits)
        .then(|| seq.parse().ok())?
        .map(|seq| (epoch, seq))
}

/// An event as a stream delivered it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    pub(crate) id: Option<String>,
    pub(crate) name: String,
    pub(crate) data: Value,
}

impl Event {
    /// Of a frame that an engine dispatches; `None` for comments and for `retry` alone.
    fn of(frame: &Frame) -> Option<Self> {
        let data = frame.data()?;
        Some(Self {
            id: frame.id().map(str::to_owned),
            name: frame.event().unwrap_or("message").to_owned(),
            // What is no JSON is judged where the form is.
            data: serde_json::from_str(&data).unwrap_or(Value::String(data)),
        })
    }

    /// Its number, where it has one.
    pub(crate) fn seq(&self) -> Option<u64> {
        self.id.as_deref().and_then(split).map(|(_, seq)| seq)
    }

    /// What the client posted, or the daemon says.
    pub(crate) fn payload(&self) -> &Value {
        &self.data["data"]
    }

    /// Where a gap goes on.
    pub(crate) fn first(&self) -> Option<u64> {
        let first = self.payload()["first"].as_str()?;
        split(first).map(|(_, seq)| seq)
    }

    /// In a few words, for a report.
    pub(crate) fn brief(&self) -> String {
        let id = self.id.as_deref().unwrap_or("no id");
        let mut data = self.payload().to_string();
        if data.len() > 80 {
            data.truncate(data.floor_char_boundary(80));
            data.push('…');
        }
        format!("{} ({id}) {data}", self.name)
    }
}

/// Several, in a few words: the first and the last.
pub(crate) fn brief(events: &[Event]) -> String {
    let texts: Vec<String> = events.iter().map(Event::brief).collect();
    match &texts[..] {
        [] => "nothing".to_owned(),
        few if few.len() <= 6 => few.join(", "),
        [first, second, .., last] => format!("{first}, {second}, … ({} in all), {last}", texts.len()),
        _ => unreachable!("two or more"),
    }
}

/// A ready daemon that has told of it, where it does: nothing happens any more that nobody asked for.
pub(crate) fn settled(stage: &mut Stage) -> Outcome<(Daemon, Live)> {
    let (daemon, live) = stage.launch_ready()?;
    if let Ok(mut stream) = ask(stage, &live, &format!("?after={}", id(&live, 0)), &[])?
        && stream.head.status == 200
    {
        let soon = Instant::now() + Duration::from_millis(500);
        follow(&mut stream, soon, |event| event.name == "lifecycle");
    }
    Ok((daemon, live))
}

/// The request for a stream, with the bearer; `query` begins with `?` or is empty.
pub(crate) fn request(
    stage: &mut Stage,
    live: &Live,
    query: &str,
    headers: &[(&str, &str)],
) -> Outcome<Request> {
    let Some(binding) = stage.manifest().binding.stream.clone() else {
        return stage.not_applicable("the manifest has no `binding.stream`");
    };
    let request = Request::get(&live.target.authority, &format!("{}{query}", binding.path))
        .header("Accept", "text/event-stream")
        .header("Authorization", &proof::bearer(&live.credential));
    Ok(headers.iter().fold(request, |request, (name, value)| request.header(name, value)))
}

/// Asks for a stream and reads the head of the answer, whatever it is.
pub(crate) fn ask(
    stage: &mut Stage,
    live: &Live,
    query: &str,
    headers: &[(&str, &str)],
) -> Outcome<Result<EventStream, HttpFault>> {
    let request = request(stage, live, query, headers)?;
    let deadline = Instant::now() + SEEN;
    let opened = Connection::open(live.target.address, deadline)
        .and_then(|connection| EventStream::open(connection, &request.bytes(), deadline));
    let said = match &opened {
        Ok(stream) => stream.head.status.to_string(),
        Err(fault) => fault.to_string(),
    };
    let note = format!("stream {query} {headers:?}: {said}");
    stage.transcript().note("suite", "request", note);
    Ok(opened)
}

/// A stream that is open: what another observation rests on.
pub(crate) fn open(stage: &mut Stage, live: &Live, query: &str) -> Outcome<EventStream> {
    match ask(stage, live, query, &[])? {
        Ok(stream) if stream.head.status == 200 => Ok(stream),
        Ok(stream) => stage.inconclusive(format!("the event stream does not open: {}", stream.head.status)),
        Err(fault) => stage.inconclusive(format!("the event stream does not open: {fault}")),
    }
}

/// A stream that goes on after an event: that it opens is a part of what is judged.
pub(crate) fn resume(
    stage: &mut Stage,
    live: &Live,
    query: &str,
    headers: &[(&str, &str)],
) -> Outcome<EventStream> {
    match ask(stage, live, query, headers)? {
        Ok(stream) if stream.head.status == 200 => Ok(stream),
        Ok(stream) => stage.fail(format!("{query} {headers:?}: answered {}", stream.head.status)),
        Err(fault) => stage.fail(format!("{query} {headers:?}: {fault}")),
    }
}

/// A stream of everything that the log ever had, or of some topics of it: `topics` begins with `&` or is empty.
pub(crate) fn from_the_beginning(stage: &mut Stage, live: &Live, topics: &str) -> Outcome<EventStream> {
    let query = format!("?after={}{topics}", id(live, 0));
    match ask(stage, live, &query, &[])? {
        Ok(stream) if stream.head.status == 200 => Ok(stream),
        other => stage.inconclusive(format!(
            "a stream from the beginning does not open: {}",
            other.map_or_else(|fault| fault.to_string(), |stream| stream.head.status.to_string())
        )),
    }
}

/// A stream over a narrow connection, which is not read beyond its head and `retry`.
pub(crate) fn stalled(stage: &mut Stage, live: &Live, query: &str) -> Outcome<EventStream> {
    let request = request(stage, live, query, &[])?;
    let deadline = Instant::now() + SEEN;
    let opened = Connection::open_narrow(live.target.address, deadline)
        .and_then(|connection| EventStream::open(connection, &request.bytes(), deadline));
    match opened {
        Ok(stream) if stream.head.status == 200 => Ok(stream),
        Ok(stream) => stage.inconclusive(format!("the event stream does not open: {}", stream.head.status)),
        Err(fault) => stage.inconclusive(format!("the event stream does not open: {fault}")),
    }
}

/// What a stream delivered, up to something.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Every event.
    pub(crate) events: Vec<Event>,
    /// How it ended, if it did.
    pub(crate) ending: Option<Ending>,
    /// Whether what was waited for came.
    pub(crate) found: bool,
}

/// Follows a stream until an event is found, it ends, or the deadline passes.
pub(crate) fn follow(
    stream: &mut EventStream,
    deadline: Instant,
    mut find: impl FnMut(&Event) -> bool,
) -> Seen {
    let mut seen = Seen::default();
    loop {
        match stream.next(deadline) {
            Sight::Frame(frame) => {
                let Some(event) = Event::of(&frame) else { continue };
                seen.found = find(&event);
                seen.events.push(event);
                if seen.found {
                    return seen;
                }
            }
            Sight::End(ending) => {
                seen.ending = Some(ending);
                return seen;
            }
            Sight::Nothing => return seen,
        }
    }
}

/// Everything up to the event of this id. That it does not come in time is what `missing` says.
pub(crate) fn until(stage: &mut Stage, stream: &mut EventStream, id: &str) -> Outcome<Vec<Event>> {
    let seen = follow(stream, Instant::now() + SEEN, |event| event.id.as_deref() == Some(id));
    if seen.found {
        return Ok(seen.events);
    }
    let ended = seen.ending.map_or_else(String::new, |ending| format!(", then its end: {ending:?}"));
    stage.fail(format!("{id} did not come; seen: {}{ended}", brief(&seen.events)))
}

/// Everything until the stream's end.
pub(crate) fn to_the_end(stream: &mut EventStream, deadline: Instant) -> Seen {
    follow(stream, deadline, |_| false)
}

/// Posts notes on one connection, without a word in the transcript.
#[derive(Debug)]
pub(crate) struct Poster {
    live: Live,
    method: String,
    path: String,
    connection: Option<Connection>,
}

impl Poster {
    /// By the route of the manifest's `emit`; `not-applicable` where it does not post notes.
    pub(crate) fn new(stage: &mut Stage, live: &Live) -> Outcome<Self> {
        let Some(emit) = stage.manifest().binding.emit.clone() else {
            return stage.not_applicable("the manifest has no `binding.emit`");
        };
        let body = emit.body.unwrap_or_default().replace("{n}", "1");
        let posts_notes = serde_json::from_str::<Value>(&body)
            .is_ok_and(|body| body["topic"] == "note" && body["data"] != Value::Null);
        if !posts_notes {
            return stage.not_applicable("the manifest's `binding.emit` does not post a note");
        }
        Ok(Self {
            live: live.clone(),
            method: emit.method,
            path: emit.path,
            connection: None,
        })
    }

    /// The request of a body.
    pub(crate) fn request(&self, body: impl Into<Vec<u8>>) -> Request {
        Request::new(&self.method, &self.path)
            .host(&self.live.target.authority)
            .header("Authorization", &proof::bearer(&self.live.credential))
            .json(body)
    }

    /// Sends a request that is answered as soon as any other.
    pub(crate) fn send(&mut self, request: &Request) -> Result<Response, HttpFault> {
        self.send_by(request, Instant::now() + SEEN)
    }

    fn send_by(&mut self, request: &Request, deadline: Instant) -> Result<Response, HttpFault> {
        let bytes = request.bytes();
        // A daemon may close a connection after any answer: then once more on a new one.
        if let Some(mut connection) = self.connection.take()
            && let Ok(response) = connection.exchange(&bytes, deadline)
        {
            self.connection = (!response.closes).then_some(connection);
            return Ok(response);
        }
        let mut connection = Connection::open(self.live.target.address, deadline)?;
        let response = connection.exchange(&bytes, deadline)?;
        self.connection = (!response.closes).then_some(connection);
        Ok(response)
    }

    /// Posts a note of this JSON, and what it was answered: the id, or what else came.
    pub(crate) fn try_note(&mut self, data: &str) -> Result<String, String> {
        let request = self.request(format!(r#"{{"topic":"note","data":{data}}}"#));
        match self.send(&request) {
            Ok(answer) => match answer.json().and_then(|body| body["id"].as_str().map(str::to_owned)) {
                Some(id) if answer.status == 201 => Ok(id),
                id => Err(format!("answered {} with id {id:?}", answer.status)),
            },
            Err(fault) => Err(fault.to_string()),
        }
    }

    /// Posts a note that must be accepted for anything else to be seen.
    pub(crate) fn note(&mut self, stage: &mut Stage, data: &str) -> Outcome<String> {
        self.try_note(data).map_err(|why| why_not(stage, &format!("a good note: {why}")))
    }

    /// Posts so many notes of a number each; the id of the last.
    pub(crate) fn notes(&mut self, stage: &mut Stage, count: u64) -> Outcome<String> {
        let mut last = String::new();
        for n in 0..count {
            last = self.note(stage, &format!(r#"{{"n":{n}}}"#))?;
        }
        Ok(last)
    }

    /// Posts notes of nearly the longest length until so many bytes were sent; the id of the last.
    pub(crate) fn bulk(&mut self, stage: &mut Stage, bytes: usize) -> Outcome<String> {
        let text = format!("\"{}\"", "x".repeat(LARGE - 2));
        let mut last = String::new();
        for _ in 0..bytes.div_ceil(LARGE) {
            last = self.note(stage, &text)?;
        }
        Ok(last)
    }
}

fn why_not(stage: &mut Stage, why: &str) -> Stop {
    stage.inconclusive::<()>(why).expect_err("inconclusive is never an outcome")
}

/// The numbers of events that must all be of this daemon's log, in their order.
pub(crate) fn seqs(stage: &mut Stage, live: &Live, events: &[Event]) -> Outcome<Vec<u64>> {
    let mut seqs = Vec::new();
    for event in events {
        match event.id.as_deref().and_then(split) {
            Some((epoch, seq)) if epoch == self::epoch(live) => seqs.push(seq),
            _ => return stage.fail(format!("not of this log: {}", event.brief())),
        }
    }
    Ok(seqs)
}

/// The first two that do not follow each other, from `first` on.
pub(crate) fn break_in(seqs: &[u64], first: u64) -> Option<String> {
    let (mut expected, mut place) = (first, 0);
    while let Some(seq) = seqs.get(place) {
        if *seq != expected {
            return Some(format!("{seq} where {expected} comes next"));
        }
        expected += 1;
        place += 1;
    }
    None
}
