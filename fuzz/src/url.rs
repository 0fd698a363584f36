//! The record's URL: accepted by its text, as by the independent subject; and what is accepted is loopback to a URL library.

use local_daemon_harness::record::Url;
use local_daemon_proto::LoopbackUrl;
use local_daemon_subject::readers;
use url::Host;

use crate::{Seed, vectors};

/// Reads a text as the URL of a record.
pub fn run(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let read = text.parse::<LoopbackUrl>().ok();
    let authority = read.map(LoopbackUrl::authority);
    assert_eq!(authority.as_deref(), readers::authority(text));
    assert_eq!(authority.as_deref(), Url::parse(text).as_ref().map(Url::authority));
    let Some(read) = read else { return };
    assert_eq!(read.to_string(), text, "written as it was read");
    let library = ::url::Url::parse(text).expect("it is a URL");
    assert_eq!(library.port_or_known_default(), Some(read.port()));
    assert!(match library.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    });
}

/// The vectors.
pub fn seeds() -> Vec<Seed> {
    vectors::inputs("urls")
}
