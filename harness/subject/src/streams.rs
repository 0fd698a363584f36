//! Chapter 11: the streams that follow the log of events.

pub(crate) mod faults;
mod log;

use std::io::{self, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use self::faults::{WRITER, follow_queue};
use self::log::{ABOUT, BATCH, LOOK, Next, line_of, offset};
pub(crate) use self::log::{Log, TOPICS};
use crate::answer::{INVALID, Refusal};
use crate::fault::broken;
use crate::product;
use crate::request::Request;

/// Where the daemon-wide stream is.
pub(super) const PATH: &str = "/v1/events";
/// A stream says that it is there at least this often.
const COMMENT: Duration = Duration::from_secs(10);
/// How long a subscriber may read nothing.
const UNREAD: Duration = Duration::from_secs(25);

/// Where a stream begins and what it wants.
pub(super) struct Wish {
    topics: Option<Vec<String>>,
    next: u64,
    /// What was asked for, where it is not of this log.
    lost: Option<String>,
    from_now: bool,
}

/// Whether these topics are refused.
fn are_unknown(topics: &[String]) -> bool {
    let known = |topic: &String| {
        let by_prefix = |known: &&str| topic.starts_with(*known) && broken("STR-5.prefix");
        let by_letters = |known: &&str| topic.eq_ignore_ascii_case(known) && broken("STR-5.any-case");
        let mut names = TOPICS.iter().chain(&ABOUT).filter(|name| **name != "note" || !product::is_on());
        product::has_topic(topic) || names.any(|name| name == topic || by_prefix(name) || by_letters(name))
    };
    if broken("STR-5.ignored") {
        false
    } else if broken("STR-5.one-is-known") {
        !topics.is_empty() && !topics.iter().any(known)
    } else {
        !topics.iter().all(known)
    }
}

/// The id after which a stream begins, of those in the header and in the parameter.
fn chosen<'a>(header: Option<&'a str>, parameter: Option<&'a str>) -> Option<&'a str> {
    let known = |id: &str, by_header: bool| {
        let from_now = broken("STR-20.from-now")
            || by_header && broken("STR-20.header-from-now")
            || !by_header && broken("STR-20.parameter-from-now");
        !(from_now && event_id(id).is_none())
    };
    let header = header.filter(|id| known(id, true) && !broken("STR-15.no-header"));
    let parameter = parameter.filter(|id| known(id, false) && !broken("STR-15.no-parameter"));
    if broken("STR-16.after-wins") {
        parameter.or(header)
    } else if broken("STR-16.further") {
        let further = |id: &&str| event_id(id).map_or(0, |(_, seq)| seq);
        header.into_iter().chain(parameter).max_by_key(further)
    } else {
        header.or(parameter)
    }
}

/// Reads the wish of a request for the stream.
pub(super) fn wish(request: &Request, log: &Log) -> Result<Wish, Refusal> {
    let topics: Vec<String> = request
        .parameters("topics")
        .flat_map(|topics| topics.split(','))
        .map(str::to_owned)
        .collect();
    if are_unknown(&topics) {
        return Err(INVALID);
    }
    let mut headers = request.headers("Last-Event-ID");
    let given = match (headers.next(), headers.next()) {
        (Some(_), Some(_)) => return Err(INVALID),
        (Some(id), None) => Some(std::str::from_utf8(id).map_err(|_| INVALID)?),
        _ => None,
    };
    // What an engine sends that has no id.
    let after = given.filter(|id| !id.is_empty() || broken("STR-33.refused"));
    let mut parameters = request.parameters("after");
    let by_parameter = match parameters.next() {
        Some("") if broken("STR-20.empty-after") => None,
        Some(_) if given == Some("") && broken("STR-33.hides-after") => None,
        by_parameter => by_parameter,
    };
    let takes_garbled = broken("STR-20.from-now")
        || broken("STR-20.parameter-from-now")
        || broken("STR-20.winner-alone") && after.is_some();
    let garbled = by_parameter.is_some_and(|id| event_id(id).is_none()) && !takes_garbled;
    if parameters.next().is_some() || garbled {
        return Err(INVALID);
    }
    let (last, first) = {
        let held = log.held();
        (held.last, held.events.front().map_or(1, |event| event.seq))
    };
    let first_of_all = log.id(0);
    let chosen = match chosen(after, by_parameter) {
        None if given == Some("") && broken("STR-33.beginning") => Some(&*first_of_all),
        chosen => chosen,
    };
    let (next, lost) = match chosen {
        None => (last + 1, None),
        Some(id) => {
            let (epoch, seq) = event_id(id).ok_or(INVALID)?;
            let seq = if seq == 0 { 0 } else { seq.saturating_add_signed(-offset()) };
            let foreign = epoch != log.epoch;
            if broken("STR-15.zero-refused") && seq == 0
                || broken("STR-18.foreign-refused") && foreign
                || broken("STR-18.future-refused") && !foreign && seq > last
                || broken("STR-17.refused") && seq + 1 < first
            {
                return Err(INVALID);
            }
            let known = (!foreign || broken("STR-18.epoch-ignored")) && seq <= last;
            if broken("STR-17.too-early") && known && seq + 1 == first && first > 1
                || broken("STR-15.last-is-lost") && known && seq == last
            {
                (0, Some(id.to_owned()))
            } else if broken("STR-18.foreign-from-now") && foreign
                || broken("STR-18.future-waits") && !foreign && seq > last
            {
                (last + 1, None)
            } else if broken("STR-17.silent") && known {
                ((seq + 1).max(first), None)
            } else if known && broken("STR-15.inclusive") {
                (seq.max(1), None)
            } else if known && broken("STR-15.one-later") {
                ((seq + 2).min(last + 1), None)
            } else if known {
                (seq + 1, None)
            } else {
                (0, Some(id.to_owned()))
            }
        }
    };
    Ok(Wish {
        topics: (!topics.is_empty()).then_some(topics),
        next,
        lost,
        from_now: chosen.is_none(),
    })
}

/// The two parts of an event's id.
fn event_id(id: &str) -> Option<(&str, u64)> {
    let (epoch, seq) = id.split_once('-')?;
    let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if broken("STR-20.lenient") {
        let digits = seq.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
        return (!epoch.is_empty()).then(|| (epoch, digits.parse().unwrap_or_default()));
    }
    let digits = !seq.is_empty()
        && seq.bytes().all(|byte| byte.is_ascii_digit())
        && (seq == "0" || !seq.starts_with('0'));
    // A number that is too large for a machine is higher than the last.
    (epoch.len() == 8 && epoch.bytes().all(hex) && digits).then(|| (epoch, seq.parse().unwrap_or(u64::MAX)))
}

/// Sends a stream whose head was sent, until it ends or `wanted` says that it is over.
pub(super) fn follow(
    stream: &TcpStream,
    chunked: bool,
    log: &Log,
    wish: &Wish,
    wanted: impl Fn() -> bool,
) -> io::Result<()> {
    stream.set_write_timeout(Some(LOOK))?;
    let mut sender = Sender { stream, chunked, wanted };
    let opening = wish.opening(log);
    if !opening.is_empty() {
        sender.send(&format!("{opening}\n"))?;
    }
    if broken("STR-23.queue") {
        return follow_queue(sender, log, wish);
    }
    let (mut next, mut asked) = (wish.next, wish.lost.clone());
    let opened_at = log.held().last;
    if broken("STR-3.late") && wish.from_now {
        std::thread::sleep(Duration::from_millis(200));
        next = log.held().last + 1;
    }
    let (mut sent, mut number, mut caught_up) = (Instant::now(), 0, false);
    loop {
        let mut frames = String::new();
        caught_up |= next > opened_at;
        if broken("STR-26.newest") && caught_up {
            next = next.max(log.held().last.saturating_sub(BATCH as u64));
        }
        match log.next(next) {
            Next::Events(events) => {
                for event in events.iter().filter(|event| wish.wants(event.topic)) {
                    number += 1;
                    frames += &log.frame(event, number, event.seq <= opened_at);
                }
                next += events.len() as u64;
                if broken("STR-12.again") && events.len() == BATCH {
                    next -= 1;
                }
                if broken("STR-27.any-event") {
                    sent = Instant::now();
                }
            }
            Next::Gap(_) if caught_up && broken("STR-26.cut") => return Ok(()),
            Next::Gap(first) => {
                let after = asked.take().unwrap_or_else(|| log.id(next.saturating_sub(1)));
                if !(broken("STR-26.silent") && caught_up
                    || broken("STR-4.gap-unheard") && wish.topics.is_some())
                {
                    frames = gap(log, first, &after);
                }
                next = first;
            }
            Next::End(topic, data) => {
                last_word(&mut sender, log, wish, next, topic, &data)?;
                let cut = broken("STR-28.cut") && topic == "superseded"
                    || broken("STR-29.cut") && topic == "shutdown";
                return if cut { Ok(()) } else { sender.end() };
            }
            Next::Nothing => {}
        }
        let comment = if broken("STR-27.half-minute") { 3 * COMMENT } else { COMMENT };
        if frames.is_empty() && sent.elapsed() > comment && !broken("STR-27.never") {
            // An empty line after it would be an empty event to popular clients.
            ":\n".clone_into(&mut frames);
        }
        if !frames.is_empty() {
            let one_at_a_time = broken("STR-25.one-writer").then(|| WRITER.lock());
            let locked = broken("STR-25.under-the-lock").then(|| log.held());
            let written = sender.send(&frames);
            drop((one_at_a_time, locked));
            if written.is_err() && broken("STR-24.kept") {
                let held = log.held();
                let rest = held.events.iter().filter(|event| event.seq >= next);
                let rest: Vec<String> = rest.map(|event| log.frame(event, event.seq, true)).collect();
                // For its return, which nobody waits for.
                std::mem::forget((frames, rest));
            }
            written?;
            sent = Instant::now();
        }
        if !broken("STR-24.unnoticed") && sender.is_over() {
            return Ok(());
        }
    }
}

impl Wish {
    /// Returns the lines of the block with which the stream begins.
    fn opening(&self, log: &Log) -> String {
        let retry = match () {
            () if broken("STR-2.three-seconds") => "retry: 3000\n",
            () if broken("STR-2.no-retry") => "",
            () => "retry: 500\n",
        };
        if !self.from_now || broken("STR-32.unnamed") {
            return retry.to_owned();
        }
        // A reader that is cut off before the first event comes back with it.
        let before = if broken("STR-32.next") { self.next } else { self.next - 1 };
        let before = if broken("STR-32.zero") { 0 } else { before };
        let data = if broken("STR-32.with-data") { "data\n" } else { "" };
        format!("{retry}id: {}\n{data}", log.id(before))
    }

    fn wants(&self, topic: &str) -> bool {
        let of = |topics: &Vec<String>| {
            if broken("STR-4.first-only") {
                topics[0] == topic
            } else {
                topics.iter().any(|wanted| wanted == topic)
            }
        };
        broken("STR-4.ignored")
            || broken("STR-4.lifecycle-always") && topic == "lifecycle"
            || self.topics.as_ref().is_none_or(of)
    }
}

/// The frame that tells of a gap.
fn gap(log: &Log, first: u64, after: &str) -> String {
    let named = log.id(if broken("STR-17.first-is-lost") { first - 1 } else { first });
    let data = json!({"first": named, "after": after});
    let id = if broken("STR-19.gap-id") {
        format!("id: {}\n", log.id(first))
    } else {
        String::new()
    };
    let frame = format!("{id}event: gap\ndata: {}\n\n", line_of("gap", &data.to_string()));
    if broken("STR-17.twice") { frame.repeat(2) } else { frame }
}

/// The last event of a stream.
fn last_word<W: Fn() -> bool>(
    sender: &mut Sender<'_, W>,
    log: &Log,
    wish: &Wish,
    next: u64,
    topic: &str,
    data: &Value,
) -> io::Result<()> {
    let unheard = broken("STR-28.silent") && topic == "superseded"
        || broken("STR-29.silent") && topic == "shutdown"
        || broken("STR-28.by-topic") && topic == "superseded" && wish.topics.is_some()
        || broken("STR-29.by-topic") && topic == "shutdown" && wish.topics.is_some()
        || broken("STR-4.end-unheard") && wish.topics.is_some();
    if unheard {
        return Ok(());
    }
    let id = if broken("STR-19.end-id") {
        format!("id: {}\n", log.id(next))
    } else {
        String::new()
    };
    let line = if broken("STR-14.bare-end") {
        data.to_string()
    } else {
        line_of(topic, &data.to_string())
    };
    sender.send(&format!("{id}event: {topic}\ndata: {line}\n\n"))?;
    let goes_on = broken("STR-28.not-the-last") && topic == "superseded"
        || broken("STR-29.not-the-last") && topic == "shutdown";
    if goes_on {
        let closed = line_of("lifecycle", r#"{"what":"draining"}"#);
        sender.send(&format!("event: lifecycle\ndata: {closed}\n\n"))?;
    }
    Ok(())
}

/// One subscriber's connection.
struct Sender<'a, W> {
    stream: &'a TcpStream,
    chunked: bool,
    wanted: W,
}

impl<W: Fn() -> bool> Sender<'_, W> {
    fn send(&mut self, text: &str) -> io::Result<()> {
        if self.chunked {
            self.write(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes())
        } else {
            self.write(text.as_bytes())
        }
    }

    fn end(&mut self) -> io::Result<()> {
        if self.chunked { self.write(b"0\r\n\r\n") } else { Ok(()) }
    }

    /// Writes everything, as long as somebody reads.
    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let mut progress = Instant::now();
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    bytes = &bytes[count..];
                    progress = Instant::now();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    if progress.elapsed() > UNREAD && !broken("PER-33.unread") || self.is_over() {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether the subscriber has gone, or may not listen any more.
    fn is_over(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut fds = [PollFd::new(self.stream, PollFlags::RDHUP)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let gone = poll(&mut fds, Some(&now)).is_ok_and(|count| count > 0);
        gone || !(self.wanted)()
    }
}
