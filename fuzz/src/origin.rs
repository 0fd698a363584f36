//! The list of origins: a text is listed where the independent subject lists it, and a browser would send it; and what is
//! listed admits itself and nothing else.

use local_daemon::perimeter::{Origin, Origins};
use local_daemon_spec::vectors::text;
use local_daemon_subject::readers;
use url::Url;

use crate::{Seed, vectors};

/// Reads a line as an entry of the list, and asks the list for the next one.
pub fn run(data: &[u8]) {
    let Ok(data) = str::from_utf8(data) else { return };
    let (entry, asked) = data.split_once('\n').unwrap_or((data, data));
    let read = entry.parse::<Origin>();
    assert_eq!(read.is_ok(), readers::is_origin(entry), "{entry:?}: {read:?}");
    if let Some(sent) = as_sent(entry) {
        assert_eq!(read.is_ok(), sent == entry, "{entry:?}: {read:?}, and a browser sends {sent:?}");
    }
    let list: Origins = read.iter().cloned().collect();
    assert_eq!(list.contains(asked), read.is_ok() && asked == entry);
    if let Ok(origin) = read {
        assert_eq!(origin.as_str(), entry);
    }
}

/// The origin that a browser sends from this address; `None` where the library is no judge: another scheme than the web's,
/// a host that browsers take and nobody lists, or port 0, where no page can be.
fn as_sent(entry: &str) -> Option<String> {
    let (scheme, rest) = entry.split_once("://")?;
    if !["http", "https"].contains(&scheme) {
        return None;
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:[]".contains(c);
    let has_empty_label = format!(".{rest}.").replace(':', ".:").contains("..");
    if !rest.chars().all(plain) || has_empty_label || rest.ends_with(":0") || rest.contains("xn--") {
        return None;
    }
    Some(Url::parse(entry).map_or_else(|_| String::new(), |url| url.origin().ascii_serialization()))
}

/// The vectors.
pub fn seeds() -> Vec<Seed> {
    vectors::seeds("origins", |case| match text(case, "kind") {
        "entry" => Some(text(case, "input").into()),
        _ => Some(format!("{}\n{}", case["allowlist"][0].as_str()?, case["origins"][0].as_str()?).into()),
    })
}
