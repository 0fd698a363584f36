//! The reader of event streams: a stream is read as the HTML standard says, wherever its bytes are cut.

use std::time::Instant;

use local_daemon_harness::sse::Parser;

use crate::Seed;

type Fields = Vec<(String, String)>;

/// The first byte is how many bytes come at once, the others are the stream.
pub fn run(data: &[u8]) {
    let Some((size, stream)) = data.split_first() else {
        return;
    };
    let at = Instant::now();
    let mut parser = Parser::default();
    let pieces = stream.chunks(usize::from(*size).max(1));
    let frames: Vec<_> = pieces.flat_map(|piece| parser.feed(piece, at)).collect();
    let (expected, rest) = by_the_standard(stream);
    let seen: Vec<&Fields> = frames.iter().map(|frame| &frame.fields).collect();
    assert_eq!(seen, expected.iter().collect::<Vec<_>>());
    assert_eq!(parser.rest().0, rest);
    for frame in &frames {
        let data = frame.fields.iter().filter(|(name, _)| name == "data");
        let expected = data.map(|(_, value)| value.clone()).reduce(|data, line| data + "\n" + &line);
        assert_eq!(frame.data(), expected);
    }
}

/// All lines first, then all blocks: the whole frames, and the fields of one that is not.
fn by_the_standard(stream: &[u8]) -> (Vec<Fields>, Fields) {
    let text = String::from_utf8_lossy(stream).replace("\r\n", "\n").replace('\r', "\n");
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let (mut frames, mut block) = (Vec::new(), Fields::new());
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let lines = text.contains('\n').then(|| whole.split('\n')).into_iter().flatten();
    for line in lines {
        let (name, value) = match line.find(':') {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, ""),
        };
        let field = (name.to_owned(), value.strip_prefix(' ').unwrap_or(value).to_owned());
        match line {
            "" if block.is_empty() => {}
            "" => frames.push(std::mem::take(&mut block)),
            comment if comment.starts_with(':') => frames.push(vec![field]),
            _ => block.push(field),
        }
    }
    (frames, block)
}

/// What daemons send, and what they may.
pub fn seeds() -> Vec<Seed> {
    [
        ("stream", "\u{ff}retry: 500\n\n: hello\nid: 5f0c2a9b-1\nevent: note\ndata: {\"n\":1}\n\n:\n\n"),
        ("line-ends", "\u{3}id: a-1\r\nevent: note\rdata: {\"n\":\ndata:  1}\n\n\r\n"),
        ("bare-fields", "\u{1}\u{feff}data\nid\n\nfield without: colon\r\n\r\n"),
        ("gap", "\u{ff}event: gap\ndata: {\"topic\":\"gap\",\"data\":{\"first\":\"a-2\"}}\n\nid: a-2\ndata"),
    ]
    .map(|(name, text)| {
        // The first letter is the size alone.
        let (size, text) = text.split_at(text.chars().next().map_or(0, char::len_utf8));
        let size = size.chars().next().and_then(|size| u8::try_from(u32::from(size)).ok());
        (name.to_owned(), [&[size.unwrap_or(1)], text.as_bytes()].concat())
    })
    .into()
}
