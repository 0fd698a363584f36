//! The log of strace, and how it is read.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A system call, as the log tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The thread that made it.
    pub thread: u32,
    /// When it was made, since the epoch.
    pub at: Duration,
    /// Its name.
    pub name: String,
    /// The files that it names, by path or by descriptor, in their order.
    pub files: Vec<PathBuf>,
    /// Whether it may create a file.
    pub creates: bool,
    /// Whether it opens a file each write to which is flushed at once.
    pub syncs: bool,
    /// What it returned, in strace's words; `None` while it has not, or where its thread was ended in it.
    pub result: Option<String>,
}

impl Call {
    /// Whether it names something in `directory`.
    pub fn touches(&self, directory: &Path) -> bool {
        self.files.iter().any(|file| file.starts_with(directory))
    }

    /// Whether it has returned, and not with an error.
    pub fn succeeded(&self) -> bool {
        self.result.as_ref().is_some_and(|result| !result.starts_with('-'))
    }

    /// Whether strace made it fail.
    pub fn was_failed(&self) -> bool {
        self.result.as_ref().is_some_and(|result| result.contains("(INJECTED)"))
    }

    pub(super) fn was_delayed(&self) -> bool {
        self.result.as_ref().is_some_and(|result| result.contains("(DELAYED)"))
    }
}

impl std::fmt::Display for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.files.iter().filter_map(|file| file.file_name()).collect();
        let names: Vec<_> = names.iter().map(|name| name.to_string_lossy()).collect();
        write!(f, "{}({})", self.name, names.join(", "))
    }
}

/// Reads a log. A line that is not of a call, such as of an exit, is left out.
pub(super) fn parse(log: &[u8]) -> Vec<Call> {
    let mut calls: Vec<(Call, Vec<u8>)> = Vec::new();
    for line in log.split(|byte| *byte == b'\n') {
        let mut words = line.splitn(3, |byte| *byte == b' ');
        // The pid is padded to five places.
        let (Some(thread), Some(rest)) = (words.next().and_then(number), strip(line)) else {
            continue;
        };
        let Some((at, text)) = timed(rest) else { continue };
        if let Some(more) = text.strip_prefix(b"<... ") {
            let open =
                calls.iter_mut().rev().find(|(call, _)| call.thread == thread && call.result.is_none());
            let more = find(more, b" resumed>").map(|end| &more[end + 9..]);
            if let (Some((call, arguments)), Some(more)) = (open, more) {
                arguments.extend_from_slice(more);
                finish(call, arguments);
            }
        } else if let Some(open) = text.iter().position(|byte| *byte == b'(')
            && text[..open].iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
        {
            let arguments = &text[open + 1..];
            let arguments = arguments.strip_suffix(b"<unfinished ...>").unwrap_or(arguments);
            let mut call = Call {
                thread,
                at,
                name: String::from_utf8_lossy(&text[..open]).into_owned(),
                files: Vec::new(),
                creates: false,
                syncs: false,
                result: None,
            };
            finish(&mut call, arguments);
            calls.push((call, arguments.to_vec()));
        }
    }
    calls.into_iter().map(|(call, _)| call).collect()
}

/// The threads that were stopped by SIGSTOP.
pub(super) fn stopped_threads(log: &[u8]) -> BTreeSet<u32> {
    let lines = log.split(|byte| *byte == b'\n');
    let stopped = lines.filter(|line| line.ends_with(b" --- stopped by SIGSTOP ---"));
    stopped.filter_map(|line| number(line.split(|byte| *byte == b' ').next()?)).collect()
}

/// Reads what stands after the opening parenthesis, as far as it is there.
fn finish(call: &mut Call, text: &[u8]) {
    let end = text.windows(3).rposition(|window| window == b" = ");
    let (arguments, result) = end.map_or((text, None), |end| (&text[..end], Some(&text[end + 3..])));
    call.files = files(arguments);
    call.creates = call.name == "creat" || find(arguments, b"O_CREAT").is_some();
    call.syncs = find(arguments, b"O_SYNC").or_else(|| find(arguments, b"O_DSYNC")).is_some();
    call.result = result
        .map(|result| String::from_utf8_lossy(result).trim_end().to_owned())
        .filter(|result| result != "?");
}

/// The quoted paths and the `<paths>` behind descriptors, in their order. A descriptor that a path follows is where that
/// path begins if it is relative, and not a file of its own.
fn files(arguments: &[u8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut base = None;
    let mut rest = arguments;
    while let Some(open) = rest.iter().position(|byte| matches!(byte, b'"' | b'<')) {
        let quoted = rest[open] == b'"';
        let (text, length) = unescape(&rest[open + 1..], if quoted { b'"' } else { b'>' });
        let after = &rest[(open + 1 + length).min(rest.len())..];
        let path = PathBuf::from(std::ffi::OsString::from_vec(text));
        if !quoted && after.starts_with(b", \"") {
            base = Some(path);
        } else if quoted && after.starts_with(b"...") {
            // A string that is cut is content, not a path.
            found.extend(base.take());
        } else if !path.as_os_str().is_empty() {
            found.push(base.take().map_or_else(|| path.clone(), |base: PathBuf| base.join(&path)));
        }
        rest = after;
    }
    found
}

/// The text up to `close`, without its escapes, and how many bytes that took with `close`.
fn unescape(text: &[u8], close: u8) -> (Vec<u8>, usize) {
    let mut plain = Vec::new();
    let mut at = 0;
    while at < text.len() && text[at] != close {
        if text[at] != b'\\' {
            plain.push(text[at]);
            at += 1;
            continue;
        }
        let digits = text[at + 1..].iter().take(3).take_while(|byte| matches!(byte, b'0'..=b'7')).count();
        let octal = std::str::from_utf8(&text[at + 1..at + 1 + digits])
            .ok()
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match (octal, text.get(at + 1)) {
            (Some(byte), _) => plain.push(byte),
            (None, Some(letter)) => plain.push(match letter {
                b'n' => b'\n',
                b't' => b'\t',
                b'r' => b'\r',
                b'v' => 0x0b,
                b'f' => 0x0c,
                other => *other,
            }),
            (None, None) => {}
        }
        at += 1 + digits.max(1);
    }
    (plain, at + 1)
}

/// What follows the number at the beginning of a line and the blanks after it.
fn strip(line: &[u8]) -> Option<&[u8]> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_digit()).count();
    (digits > 0).then(|| line[digits..].trim_ascii_start())
}

fn number(word: &[u8]) -> Option<u32> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

/// Seconds and microseconds since the epoch, and what follows.
fn timed(text: &[u8]) -> Option<(Duration, &[u8])> {
    let blank = text.iter().position(|byte| *byte == b' ')?;
    let (seconds, micros) = std::str::from_utf8(&text[..blank]).ok()?.split_once('.')?;
    let at = Duration::from_secs(seconds.parse().ok()?) + Duration::from_micros(micros.parse().ok()?);
    Some((at, &text[blank + 1..]))
}

fn find(text: &[u8], needle: &[u8]) -> Option<usize> {
    text.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(call: &Call) -> Vec<&str> {
        call.files.iter().filter_map(|file| file.to_str()).collect()
    }

    #[test]
    fn a_log_is_read_call_by_call() {
        let log = br#"7     1795220415.607552 openat(AT_FDCWD</tmp/a b>, "/s/credential", O_WRONLY|O_CREAT, 0600) = 5</s/credential>
7     1795220415.607553 write(5</s/x\74y>, ""..., 44) = 44
8     1795220415.607554 fsync(6</s/r> <unfinished ...>
7     1795220415.607555 rename("/s/a\"b", "/s/\303\274") = -1 EIO (Input/output error) (INJECTED)
8     1795220415.607556 <... fsync resumed>) = 0 (DELAYED)
8     1795220415.607557 +++ killed by SIGKILL +++
9     1795220415.607558 unlink("/s/gone") = ?
9     1795220415.607558 renameat(3</d>, "a", AT_FDCWD</e>, "b") = 0
9     1795220415.607558 fchmodat(3</d>, "/s/abs", 0600) = 0
7     1795220415.607559 rename("/s/a", "/s/b""#;
        let calls = parse(log);
        let shown: Vec<(u32, &str, Vec<&str>)> =
            calls.iter().map(|call| (call.thread, call.name.as_str(), names(call))).collect();
        assert_eq!(
            shown,
            [
                (7, "openat", vec!["/s/credential"]),
                (7, "write", vec!["/s/x<y"]),
                (8, "fsync", vec!["/s/r"]),
                (7, "rename", vec!["/s/a\"b", "/s/ü"]),
                (9, "unlink", vec!["/s/gone"]),
                (9, "renameat", vec!["/d/a", "/e/b"]),
                (9, "fchmodat", vec!["/s/abs"]),
                (7, "rename", vec!["/s/a", "/s/b"]),
            ]
        );
        assert!(calls[0].creates && !calls[1].creates);
        assert_eq!(calls[0].at, Duration::from_micros(1_795_220_415_607_552));
        assert!(calls[3].was_failed() && !calls[3].was_delayed());
        assert!(calls[2].was_delayed() && calls[2].touches(Path::new("/s")));
        let results: Vec<_> = calls.iter().map(|call| call.result.as_deref()).collect();
        assert_eq!(results[1], Some("44"));
        assert_eq!((results[4], results[7]), (None, None));
        assert!(calls[5].succeeded() && !calls[3].succeeded() && !calls[4].succeeded());
    }

    #[test]
    fn a_log_of_anything_is_no_panic() {
        for log in [
            &b"\xff\xfe\n7 x\n7 1.2\n7 1.2 (\n7 1.2 f(\"\\"[..],
            b"7 1.2 f(\\",
            b"7 1.2 <... f",
            b"\n\n",
        ] {
            parse(log);
        }
        assert_eq!(parse(b"7 1.2 f(\"a\\").len(), 1);
    }
}
