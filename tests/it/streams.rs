//! Event streams: the hub against a log that keeps everything, and the body's own words.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use http_body::Body;
use local_daemon::events::{Item, Reader};
use local_daemon::streams::{
    End, EventBody, EventId, HEARTBEAT_INTERVAL, Hub, Limits, Next, Selection, SubscribeError, Subscriber,
};
use proptest::prelude::*;
use serde_json::{Value, json};

const EPOCH: u32 = 0x5f0c_2a9b;
const TOPICS: &[&str] = &["lifecycle", "warning", "note"];

fn hub(limits: Limits) -> Arc<Hub> {
    Arc::new(Hub::new(EPOCH, TOPICS, limits))
}

fn id(seq: u64) -> EventId {
    EventId { epoch: EPOCH, seq }
}

fn after(seq: u64) -> Selection {
    Selection { topics: None, after: Some(id(seq)) }
}

fn next(subscriber: &mut Subscriber) -> Option<Next> {
    match subscriber.poll_next(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(next) => Some(next),
        Poll::Pending => None,
    }
}

/// The numbers of the events in some frames, each of which must be whole.
fn numbers(frames: &[u8]) -> Vec<u64> {
    let text = str::from_utf8(frames).unwrap();
    let frames = text.strip_suffix("\n\n").expect("frames come whole").split("\n\n");
    let number = |frame: &str| frame.lines().next()?.strip_prefix("id: 5f0c2a9b-")?.parse().ok();
    frames.map(|frame| number(frame).expect("every frame of the log has an id")).collect()
}

/// One thing that happens.
#[derive(Clone, Debug)]
enum Step {
    Append { topic: usize, length: usize },
    Subscribe { topics: u8, after: Option<(bool, u64)> },
    Read(usize),
    Leave(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..TOPICS.len(), prop_oneof![0..200_usize, Just(3_000), Just(40_000)])
            .prop_map(|(topic, length)| Step::Append { topic, length }),
        2 => (0..8_u8, proptest::option::of((proptest::bool::weighted(0.9), 0..60_u64)))
            .prop_map(|(topics, after)| Step::Subscribe { topics, after }),
        5 => any::<usize>().prop_map(Step::Read),
        1 => any::<usize>().prop_map(Step::Leave),
    ];
    proptest::collection::vec(step, 0..120)
}

/// What the naive log has of an event: its topic, and how long its frame is.
type Held = (usize, usize);

/// A subscriber of the naive log.
struct Naive {
    subscriber: Subscriber,
    topics: u8,
    next: u64,
    /// The id that it was promised to go on after and cannot.
    lost: Option<EventId>,
}

fn frame(seq: u64, topic: usize, length: usize) -> String {
    format!("id: {}\nevent: {}\ndata: {}\n\n", id(seq), TOPICS[topic], "x".repeat(length))
}

proptest! {
    /// STR-4, STR-10, STR-11, STR-12, STR-15, STR-17, STR-18, STR-21, STR-22, STR-26
    #[test]
    fn a_hub_is_a_log_that_forgets_the_oldest(
        steps in steps(),
        events in 0..20_usize,
        bytes in prop_oneof![Just(500_usize), Just(50_000), Just(200_000)],
    ) {
        let hub = hub(Limits { events, bytes });
        let mut all: Vec<Held> = Vec::new();
        let mut readers: Vec<Naive> = Vec::new();
        for step in steps {
            // The oldest that is held: count back from the newest until a bound is met.
            let (mut held, mut size) = (0, 0);
            for (_, length) in all.iter().rev() {
                size += length;
                if held == events || size > bytes {
                    break;
                }
                held += 1;
            }
            let last = all.len() as u64;
            let first = last + 1 - held as u64;
            match step {
                Step::Append { topic, length } => {
                    let seq = last + 1;
                    prop_assert_eq!(hub.append_line(TOPICS[topic], "x".repeat(length).as_bytes()).unwrap(), Some(id(seq)));
                    all.push((topic, frame(seq, topic, length).len()));
                }
                Step::Subscribe { topics, after } => {
                    let names = TOPICS.iter().enumerate().filter(|(place, _)| topics >> place & 1 == 1);
                    let after = after.map(|(ours, seq)| EventId { epoch: if ours { EPOCH } else { 7 }, seq });
                    let selection = Selection {
                        topics: Some(names.map(|(_, name)| (*name).to_owned()).collect()),
                        after,
                    };
                    let lost = after.filter(|id| id.epoch != EPOCH || id.seq > last);
                    let next = after.map_or(last + 1, |id| id.seq + 1);
                    let subscriber = hub.subscribe(&selection).unwrap();
                    readers.push(Naive { subscriber, topics, next, lost });
                }
                Step::Read(which) if !readers.is_empty() => {
                    let count = readers.len();
                    let reader = &mut readers[which % count];
                    let got = next(&mut reader.subscriber);
                    let wants = |seq: &u64| reader.topics >> all[usize::try_from(*seq).unwrap() - 1].0 & 1 == 1;
                    if let Some(Next::Gap { first: told, after }) = got {
                        prop_assert_eq!(told, id(first));
                        if let Some(lost) = reader.lost.take() {
                            prop_assert_eq!(after, lost);
                        } else {
                            // It may have passed events that it does not want.
                            prop_assert!(after.epoch == EPOCH && (reader.next..=first).contains(&(after.seq + 1)));
                            prop_assert_eq!((reader.next..=after.seq).find(wants), None);
                        }
                        reader.next = first;
                        continue;
                    }
                    prop_assert_eq!(reader.lost, None);
                    prop_assert_eq!((reader.next..first).find(wants), None, "lost in silence");
                    let mut wanted = (reader.next.max(first)..=last).filter(wants);
                    let Some(Next::Frames(frames)) = got else {
                        prop_assert_eq!(got, None);
                        prop_assert_eq!(wanted.next(), None);
                        reader.next = last + 1;
                        continue;
                    };
                    let seen = numbers(&frames);
                    prop_assert!(!seen.is_empty());
                    let expected: Vec<u64> = wanted.take(seen.len()).collect();
                    prop_assert_eq!(&seen, &expected);
                    let text: String = expected.iter().map(|seq| {
                        let (topic, length) = all[usize::try_from(*seq).unwrap() - 1];
                        frame(*seq, topic, length - frame(*seq, topic, 0).len())
                    }).collect();
                    prop_assert_eq!(&frames[..], text.as_bytes());
                    prop_assert!(seen.len() == 1 || frames.len() <= 33 * 1024, "{} bytes at once", frames.len());
                    reader.next = expected[expected.len() - 1] + 1;
                }
                Step::Leave(which) if !readers.is_empty() => {
                    let count = readers.len();
                    drop(readers.swap_remove(which % count));
                }
                Step::Read(_) | Step::Leave(_) => {}
            }
            prop_assert_eq!(hub.subscribers(), readers.len());
        }
    }

    /// STR-20
    #[test]
    fn no_text_makes_the_parser_panic_and_ids_return(text in ".{0,24}", epoch: u32, seq: u64) {
        if let Ok(id) = text.parse::<EventId>() {
            prop_assert_eq!(id.to_string(), text);
        }
        let id = EventId { epoch, seq };
        prop_assert_eq!(id.to_string().parse(), Ok(id));
    }
}

#[test]
fn an_event_id_is_an_epoch_and_a_number() {
    for text in [
        "5f0c2a9b-01",
        "5f0c2a9b-00",
        "",
        "-",
        "5f0c2a9b",
        "5f0c2a9b-",
        "-1",
        "1",
        "5f0c2a9b-x",
        "5F0C2A9B-1",
        "5f0c2a9-1",
        "5f0c2a9b1-1",
        "5f0c2a9b-+1",
        "5f0c2a9b--1",
        "5f0c2a9b-1 ",
        " 5f0c2a9b-1",
        "5f0c2a9b-1-1",
    ] {
        assert!(text.parse::<EventId>().is_err(), "{text:?}");
    }
    let beyond = "5f0c2a9b-99999999999999999999999".parse::<EventId>().unwrap();
    assert_eq!(beyond.seq, u64::MAX);
}

#[test]
fn a_request_is_read_with_the_header_first() {
    let parse = |topics, after, headers: &[&'static str]| {
        Selection::parse(topics, after, headers.iter().map(|header| header.as_bytes()))
    };
    assert_eq!(parse(None, None, &[]), Ok(Selection::default()));
    assert_eq!(parse(None, Some("5f0c2a9b-1"), &["5f0c2a9b-2"]), Ok(after(2)));
    assert_eq!(parse(None, Some("5f0c2a9b-1"), &[]), Ok(after(1)));
    for (given, headers) in [
        (Some("5f0c2a9b-1"), &["now"][..]),
        (Some("now"), &["5f0c2a9b-1"]),
        (Some(""), &[]),
        (Some(""), &["5f0c2a9b-1"]),
        (None, &["5f0c2a9b-1", "5f0c2a9b-2"]),
        (None, &[" "]),
    ] {
        assert!(parse(None, given, headers).is_err(), "{given:?} {headers:?}");
    }
    // STR-33
    assert_eq!(parse(None, None, &[""]), Ok(Selection::default()));
    assert_eq!(parse(None, Some("5f0c2a9b-1"), &[""]), Ok(after(1)));
    assert_eq!(parse(None, None, &["", "5f0c2a9b-2"]), Ok(after(2)));
    let topics = parse(Some("note,x"), None, &[]).unwrap();
    let refused = hub(Limits::default()).subscribe(&topics).unwrap_err();
    assert_eq!(refused, SubscribeError::UnknownTopic);
}

/// A line break in the data would end its frame, for readers and in the file.
#[test]
fn the_data_of_an_event_is_one_line() {
    let hub = hub(Limits::default());
    // What is not UTF-8 would be damage to whoever reads the file back.
    for data in [&b"{\n}"[..], b"\r", b"1\r\n", b"\"\xff\""] {
        let error = hub.append_line("note", data).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    }
    assert_eq!(hub.append_line("note", b"1").unwrap(), Some(id(1)));
    let separators: String = ('\0'..='\u{9f}').chain(['\u{85}', '\u{2028}', '\u{2029}']).collect();
    assert_eq!(hub.append("note", &separators).unwrap(), Some(id(2)));
    let mut reader = hub.subscribe(&after(1)).unwrap();
    let Some(Next::Frames(frames)) = next(&mut reader) else { panic!() };
    let mut client = Reader::new(None);
    client.push(&frames);
    let Ok(Some(Item::Event(event))) = client.next() else { panic!() };
    assert_eq!(event.json::<String>().unwrap(), separators);
}

/// Each would break frames, could not be selected, or is what a stream tells about itself.
#[test]
fn topics_have_names() {
    for topic in [
        "",
        "a,b",
        "a\nid: 5f0c2a9b-9",
        "\r",
        "gap",
        "superseded",
        "shutdown",
    ] {
        let made = std::panic::catch_unwind(|| Hub::new(EPOCH, &[topic], Limits::default()));
        assert!(made.is_err(), "{topic:?}");
    }
    Hub::new(EPOCH, &["lifecycle", "a b", "\u{fc}", "jobs/1"], Limits::default());
}

#[test]
fn a_full_log_holds_its_bounds_exactly() {
    let hub = hub(Limits::default());
    for _ in 0..5_000 {
        hub.append_line("note", b"{}").unwrap();
    }
    let mut reader = hub.subscribe(&after(0)).unwrap();
    let gap = Next::Gap { first: id(905), after: id(0) };
    assert_eq!(next(&mut reader), Some(gap));
    let mut seen = Vec::new();
    while let Some(Next::Frames(frames)) = next(&mut reader) {
        seen.extend(numbers(&frames));
    }
    assert_eq!(seen, (905..=5_000).collect::<Vec<_>>());
}

#[test]
fn a_word_that_is_too_long_to_be_held_is_a_gap() {
    let hub = hub(Limits { events: 10, bytes: 100 });
    let mut reader = hub.subscribe(&Selection::default()).unwrap();
    hub.append_line("note", &[b'x'; 200]).unwrap();
    assert_eq!(next(&mut reader), Some(Next::Gap { first: id(2), after: id(0) }));
    hub.append_line("note", b"1").unwrap();
    assert!(matches!(next(&mut reader), Some(Next::Frames(frames)) if numbers(&frames) == [2]));
}

/// A waker that counts.
#[derive(Default)]
struct Alarm(AtomicUsize);

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn whoever_waits_is_woken_once_and_whoever_left_is_not() {
    let hub = hub(Limits::default());
    let alarm = Arc::new(Alarm::default());
    let waker = Waker::from(alarm.clone());
    let mut context = Context::from_waker(&waker);
    let (mut one, mut other) =
        (hub.subscribe(&Selection::default()).unwrap(), hub.subscribe(&Selection::default()).unwrap());
    assert!(one.poll_next(&mut context).is_pending() && other.poll_next(&mut context).is_pending());
    assert!(one.poll_next(&mut context).is_pending(), "asking twice is waiting once");
    drop(other);
    for _ in 0..3 {
        hub.append_line("note", b"1").unwrap();
    }
    assert_eq!(alarm.0.load(Ordering::SeqCst), 1, "a burst wakes once");
    assert!(
        matches!(one.poll_next(&mut context), Poll::Ready(Next::Frames(frames)) if numbers(&frames) == [1, 2, 3])
    );
    assert!(one.poll_next(&mut context).is_pending());
    hub.end(End::Shutdown);
    assert_eq!(alarm.0.load(Ordering::SeqCst), 2);
    assert!(matches!(next(&mut one), Some(Next::End(_))));
    assert_eq!(next(&mut one), Some(Next::Closed));
    drop(one);
    assert_eq!((hub.subscribers(), Arc::strong_count(&alarm)), (0, 2), "nothing is kept of them");
}

#[test]
fn what_is_appended_after_the_end_was_never_there() {
    let hub = hub(Limits::default());
    let mut reader = hub.subscribe(&Selection::default()).unwrap();
    hub.append_line("note", b"1").unwrap();
    hub.end(End::Shutdown);
    hub.end(End::Superseded { successor: None });
    assert_eq!(hub.append_line("note", b"2").unwrap(), None);
    assert!(matches!(next(&mut reader), Some(Next::Frames(frames)) if numbers(&frames) == [1]));
    assert!(
        matches!(next(&mut reader), Some(Next::End(frame)) if frame.starts_with(b"event: shutdown\ndata: {"))
    );
    assert_eq!(next(&mut reader), Some(Next::Closed));
    assert_eq!(hub.subscribe(&Selection::default()).unwrap_err(), SubscribeError::Ended);
}

fn poll(body: &mut EventBody) -> Poll<Option<Bytes>> {
    pin!(body)
        .poll_frame(&mut Context::from_waker(Waker::noop()))
        .map(|frame| frame.map(|frame| frame.unwrap().into_data().unwrap()))
}

/// The fields of one frame.
fn fields(frame: &[u8]) -> Vec<(String, String)> {
    let text = str::from_utf8(frame).unwrap().strip_suffix("\n\n").unwrap();
    let field = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned()));
    text.lines().map(|line| field(line).unwrap()).collect()
}

fn ready(body: &mut EventBody) -> Vec<(String, String)> {
    match poll(body) {
        Poll::Ready(Some(frame)) => fields(&frame),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_begins_at_once_and_beats_when_nothing_happens() {
    let hub = hub(Limits::default());
    let answer = hub.subscribe(&Selection::default()).unwrap().into_response();
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    assert_eq!(answer.headers()["cache-control"], "no-store");
    let mut body = answer.into_body();
    assert_eq!(
        ready(&mut body),
        [("retry", "500"), ("id", "5f0c2a9b-0")].map(|(name, value)| (name.to_owned(), value.to_owned()))
    );
    let began = tokio::time::Instant::now();
    assert!(poll(&mut body).is_pending());
    tokio::time::sleep(HEARTBEAT_INTERVAL / 2).await;
    // Whatever was said puts the beat off.
    hub.append("note", &json!("a\nb\r\n\r\nid: x")).unwrap();
    let said = ready(&mut body);
    assert_eq!(said[0], ("id".to_owned(), "5f0c2a9b-1".to_owned()));
    assert_eq!(said[1], ("event".to_owned(), "note".to_owned()));
    let data: Value = serde_json::from_str(&said[2].1).unwrap();
    assert_eq!((&data["topic"], &data["data"]), (&json!("note"), &json!("a\nb\r\n\r\nid: x")));
    let beat = std::future::poll_fn(|context| {
        pin!(&mut body)
            .poll_frame(context)
            .map(|frame| frame.unwrap().unwrap().into_data().unwrap())
    });
    assert_eq!(beat.await, ":\n");
    assert!(
        began.elapsed() >= HEARTBEAT_INTERVAL * 3 / 2 && began.elapsed() < HEARTBEAT_INTERVAL * 2,
        "{:?}",
        began.elapsed()
    );
    assert!(poll(&mut body).is_pending());
}

/// STR-32: a stream that names no place says where it begins, whatever its topics are.
#[tokio::test]
async fn a_stream_says_where_it_begins_unless_its_request_does() {
    let hub = hub(Limits::default());
    hub.append("note", &json!(1)).unwrap();
    hub.append("lifecycle", &json!(2)).unwrap();
    let opening = |selection: &Selection| poll(&mut EventBody::from(hub.subscribe(selection).unwrap()));
    let said = |text: &'static str| Poll::Ready(Some(Bytes::from_static(text.as_bytes())));
    assert_eq!(opening(&Selection::default()), said("retry: 500\nid: 5f0c2a9b-2\n\n"));
    let notes = Selection { topics: Some(vec!["note".to_owned()]), after: None };
    assert_eq!(opening(&notes), said("retry: 500\nid: 5f0c2a9b-2\n\n"));
    for seq in [0, 1, 2, 9] {
        assert_eq!(opening(&after(seq)), said("retry: 500\n\n"));
    }
    // What happens between the request and the head is after the place.
    let reader = hub.subscribe(&Selection::default()).unwrap();
    hub.append("note", &json!(3)).unwrap();
    let mut body = EventBody::from(reader);
    assert_eq!(poll(&mut body), said("retry: 500\nid: 5f0c2a9b-2\n\n"));
    assert_eq!(ready(&mut body)[0].1, "5f0c2a9b-3");
}

#[tokio::test]
async fn what_is_not_in_the_log_has_no_id() {
    let hub = hub(Limits::default());
    hub.append("note", &json!(1)).unwrap();
    let mut body = EventBody::from(hub.subscribe(&after(9)).unwrap());
    ready(&mut body);
    let gap = ready(&mut body);
    assert_eq!(gap[0].1, "gap");
    let data: Value = serde_json::from_str(&gap[1].1).unwrap();
    assert_eq!(data["data"], json!({"first": "5f0c2a9b-1", "after": "5f0c2a9b-9"}));
    ready(&mut body);
    let successor = local_daemon::ClaimId::from_bits(7);
    hub.end(End::Superseded { successor: Some(successor) });
    let end = ready(&mut body);
    assert_eq!(end[0].1, "superseded");
    let data: Value = serde_json::from_str(&end[1].1).unwrap();
    assert_eq!(data["data"]["successor"], json!(successor.to_string()));
    assert_eq!(poll(&mut body), Poll::Ready(None));
}

#[tokio::test]
async fn json_that_is_passed_on_keeps_its_digits_and_stays_on_its_line() {
    let hub = hub(Limits::default());
    let mut body = EventBody::from(hub.subscribe(&Selection::default()).unwrap());
    ready(&mut body);
    let raw: Box<serde_json::value::RawValue> =
        serde_json::from_str("{\n\"n\":\r\n 123456789012345678901234567890.10,\t\"s\": \"\\n\\u0000\"}")
            .unwrap();
    hub.append("note", &raw).unwrap();
    let said = ready(&mut body);
    assert_eq!(said.len(), 3);
    assert!(said[2].1.contains("123456789012345678901234567890.10"), "{}", said[2].1);
}

#[tokio::test]
async fn within_a_burst_others_have_their_turn_before_more_is_read() {
    let hub = hub(Limits::default());
    let mut body = EventBody::from(hub.subscribe(&Selection::default()).unwrap());
    ready(&mut body);
    hub.append("note", &"x".repeat(8 * 1024)).unwrap();
    ready(&mut body);
    assert!(poll(&mut body).is_pending());
    hub.append("note", &2).unwrap();
    assert!(poll(&mut body).is_pending());
    hub.append("note", &3).unwrap();
    let rest = std::future::poll_fn(|context| pin!(&mut body).poll_frame(context)).await;
    let rest = rest.unwrap().unwrap().into_data().unwrap();
    assert_eq!(numbers(&rest), [2, 3]);
    // The burst is over: what comes now waits for nobody.
    assert!(poll(&mut body).is_pending());
    hub.append("note", &4).unwrap();
    assert_eq!(ready(&mut body)[0].1, "5f0c2a9b-4");
}
