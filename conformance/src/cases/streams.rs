//! Event streams: chapter 11.

mod bounds;
mod ending;
pub(crate) mod follow;
mod notes;
mod opening;
mod order;
mod resuming;

use crate::case::Case;

/// The cases of the chapter.
pub(crate) const CASES: &[Case] = &[
    Case::streams(
        "streams/opens-as-an-event-stream",
        &["STR-1"],
        "Streams are opened: of everything, of a topic, from the beginning, after an id that is not held, \
         as other clients ask. Each answer is an event stream that nobody may store.",
        opening::opens_as_an_event_stream,
    ),
    Case::streams(
        "streams/head-before-anything-happens",
        &["STR-2"],
        "A stream of a topic without events is opened and nothing is done: head and `retry: 500` come all \
         the same.",
        opening::head_before_anything_happens,
    ),
    Case::streams(
        "streams/delivers-what-happens-after-its-head",
        &["STR-3"],
        "Twenty times a stream is opened, and a note posted as soon as its head was read; each sees its \
         note.",
        opening::delivers_what_happens_after_its_head,
    ),
    Case::streams(
        "streams/topics-choose",
        &["STR-4"],
        "Streams of some topics are read from the beginning of a log that holds others too, and until the \
         daemon stops: only their topics come, and the words about the stream.",
        opening::topics_choose,
    ),
    Case::streams(
        "streams/unknown-topic-refused",
        &["STR-5"],
        "Streams are asked for with misspelt topics, alone and beside known ones. Each is 400.",
        opening::unknown_topic_refused,
    ),
    Case::streams(
        "streams/standing-down-refuses-a-stream",
        &["STR-6"],
        "A daemon that is displaced, and one that stops, wait for a request that is half sent; a stream \
         asked for meanwhile is 503.",
        opening::standing_down_refuses_a_stream,
    ),
    Case::streams(
        "streams/a-note-reaches-every-stream",
        &["STR-7"],
        "Notes of every kind of JSON, also what looks like the end of a frame, reach four streams once \
         each, with the answered id and unchanged.",
        notes::a_note_reaches_every_stream,
    ),
    Case::streams(
        "streams/a-note-too-long-refused",
        &["STR-8"],
        "Notes of more than 64 KiB, with and without an announced length, are 413; the numbers of the notes \
         before and after them follow each other.",
        notes::a_note_too_long_refused,
    ),
    Case::streams(
        "streams/only-notes-can-be-posted",
        &["STR-9"],
        "What is no JSON, no object, without data or of another topic is 400, and nothing is appended.",
        notes::only_notes_can_be_posted,
    ),
    Case::streams(
        "streams/ids-are-epoch-and-number",
        &["STR-10"],
        "The ids of two launches, in answers and on streams, begin with the first 8 digits of the launch's \
         id.",
        order::ids_are_epoch_and_number,
    ),
    Case::streams(
        "streams/numbers-begin-at-one",
        &["STR-11"],
        "A log is read from its beginning, at two launches in one state directory: 1, 2, 3; a stream of one \
         topic leaves numbers out and renumbers nothing.",
        order::numbers_begin_at_one,
    ),
    Case::streams(
        "streams/in-order-and-none-twice",
        &["STR-12"],
        "Four clients post at once while streams are open and others are opened: on each the numbers rise, \
         and what one client posted keeps its order.",
        order::in_order_and_none_twice,
    ),
    Case::streams(
        "streams/the-same-on-every-stream",
        &["STR-13"],
        "The same events are read at once, by topic, resumed and from the beginning, and compared whole.",
        order::the_same_on_every_stream,
    ),
    Case::streams(
        "streams/frames-say-what-they-are",
        &["STR-14"],
        "Every event that a daemon makes in its life, to its displacement and its stop, is judged by the \
         schema; its field is its topic.",
        order::frames_say_what_they_are,
    ),
    Case::streams(
        "streams/resumes-exactly-after",
        &["STR-15"],
        "A stream is taken up after every id of a log, from before the first to the last, by header and by \
         parameter.",
        resuming::resumes_exactly_after,
    ),
    Case::streams(
        "streams/last-event-id-wins",
        &["STR-16"],
        "Header and parameter name different events, each further than the other in turn: the header \
         counts.",
        resuming::last_event_id_wins,
    ),
    Case::streams(
        "streams/what-is-not-held-is-a-gap",
        &["STR-17"],
        "More events happen than a log holds. Whoever goes on after a lost one is told where it goes on, \
         and whoever has lost nothing is told nothing.",
        resuming::what_is_not_held_is_a_gap,
    )
    .deadline_s(40),
    Case::streams(
        "streams/another-epoch-or-the-future-is-a-gap",
        &["STR-18"],
        "Ids of an earlier launch, of nobody's, and higher than the last are answered by a gap and all that \
         is held.",
        resuming::another_epoch_or_the_future_is_a_gap,
    ),
    Case::streams(
        "streams/words-about-the-stream-have-no-id",
        &["STR-19"],
        "A gap, a displacement and a stop are told on streams; none of these events has an id.",
        resuming::words_about_the_stream_have_no_id,
    ),
    Case::streams(
        "streams/garbled-ids-refused",
        &["STR-20"],
        "Sixteen texts that are no event id, in the header and in the parameter. Each is 400.",
        resuming::garbled_ids_refused,
    ),
    Case::streams(
        "streams/log-is-bounded-in-events",
        &["STR-21"],
        "More than 4,096 short events happen; a stream from the beginning delivers 4,096 at most.",
        bounds::log_is_bounded_in_events,
    )
    .deadline_s(40),
    Case::streams(
        "streams/log-is-bounded-in-bytes",
        &["STR-21"],
        "More than 4 MiB of long events happen; a stream from the beginning delivers 4 MiB at most.",
        bounds::log_is_bounded_in_bytes,
    )
    .deadline_s(40),
    Case::streams(
        "streams/log-holds-the-newest-events",
        &["STR-22"],
        "More than 4,096 short events happen; a stream that goes on 4,096 before the last misses nothing.",
        bounds::log_holds_the_newest_events,
    )
    .deadline_s(40),
    Case::streams(
        "streams/log-holds-the-newest-bytes",
        &["STR-22"],
        "More than 4 MiB of long events happen; a stream from the beginning delivers nearly 4 MiB.",
        bounds::log_holds_the_newest_bytes,
    )
    .deadline_s(40),
    Case::streams(
        "streams/stalled-subscribers-are-bounded",
        &["STR-23"],
        "Twenty subscribers read nothing of 24 MiB of events; the daemon's memory grows with the first of \
         them and not with the rest (opencode 1.18: row 33).",
        bounds::stalled_subscribers_are_bounded,
    )
    .deadline_s(60),
    Case::streams(
        "streams/gives-back-what-a-subscriber-held",
        &["STR-24"],
        "Subscribers leave, idle and stalled, closed and reset: their connections, their number and their \
         memory are gone within 2 s.",
        bounds::gives_back_what_a_subscriber_held,
    )
    .deadline_s(60),
    Case::streams(
        "streams/a-stalled-subscriber-delays-nobody",
        &["STR-25"],
        "Twenty subscribers read nothing while a hundred long notes are posted: each is answered, and seen \
         by another subscriber, at once.",
        bounds::a_stalled_subscriber_delays_nobody,
    )
    .deadline_s(60),
    Case::streams(
        "streams/a-slow-subscriber-loses-nothing-in-silence",
        &["STR-26"],
        "Subscribers read on after 2 and after 14 MiB: what does not come is named by a gap.",
        bounds::a_slow_subscriber_loses_nothing_in_silence,
    )
    .deadline_s(60),
    Case::streams(
        "streams/says-that-it-is-there",
        &["STR-27"],
        "Nothing happens on a stream while notes are posted that it does not want: a word comes within 15 \
         s.",
        bounds::says_that_it_is_there,
    )
    .deadline_s(30),
    Case::streams(
        "streams/superseded-is-the-last-word",
        &["STR-28"],
        "A daemon is displaced, by another and by a mere record: `superseded` is the last event on four \
         streams, which then end as HTTP asks.",
        ending::superseded_is_the_last_word,
    )
    .deadline_s(30),
    Case::streams(
        "streams/shutdown-is-the-last-word",
        &["STR-29"],
        "A daemon is stopped by two signals and by the removal of its record: `shutdown` is the last event \
         on four streams, which then end as HTTP asks.",
        ending::shutdown_is_the_last_word,
    )
    .deadline_s(30),
    Case::streams(
        "streams/ends-in-the-drain-bound",
        &["STR-30"],
        "A daemon is stopped and one is displaced while subscribers read nothing: 10 s later all streams \
         have ended (buck2: row 12).",
        ending::ends_in_the_drain_bound,
    )
    .deadline_s(45),
];
