//! The registration record: the crate, the suite and the independent subject take the same bytes for the same record.

use local_daemon_harness::record::Record;
use local_daemon_proto::Registration;
use local_daemon_proto::registration::MAX_BYTES;
use local_daemon_subject::readers;

use crate::{Seed, vectors};

/// Reads bytes as a record.
pub fn run(data: &[u8]) {
    // The subject's bound is that of the file, not of its content.
    if data.len() > MAX_BYTES {
        assert!(Registration::parse(data).is_err());
        return;
    }
    let read = Registration::parse(data);
    let theirs = readers::record(data);
    let suites = Record::parse(data);
    assert_eq!(read.is_ok(), theirs.is_some(), "{read:?}, by the subject {theirs:?}");
    assert_eq!(read.is_ok(), suites.is_ok(), "{read:?}, by the suite {suites:?}");
    let (Ok(read), Some(theirs), Ok(suites)) = (read, theirs, suites) else {
        return;
    };
    let same = readers::Record {
        id: read.id.to_string(),
        version: read.version.clone(),
        url: read.url.to_string(),
        pid: read.pid.get(),
        protocol: read.protocol.clone(),
    };
    assert_eq!(same, theirs);
    assert_eq!((&read.socket, &read.started_at), (&suites.socket, &suites.started_at));
    assert_eq!(Registration::id_of(data), Some(read.id), "CONV-3");
    assert_eq!(Registration::parse(&read.to_bytes()).as_ref(), Ok(&read), "it is read as it was written");
}

/// The vectors.
pub fn seeds() -> Vec<Seed> {
    vectors::inputs("records")
}
