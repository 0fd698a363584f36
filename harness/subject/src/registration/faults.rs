//! The faults of the registration record, chapter 03.

use crate::fault::{Fault, fault};

pub(crate) const FAULTS: &[Fault] = &[
    fault("REG-1.byte-order-mark", "begins the record with a byte order mark"),
    fault("REG-1.key-twice", "writes the id twice, for readers of two spellings"),
    fault("REG-1.two-values", "appends a second object to the first"),
    fault("REG-1.other-encoding", "writes the version in Latin-1"),
    fault("REG-1.padded", "pads the record to a size beyond 64 KiB"),
    fault("REG-2.pid-as-text", "writes the pid as a string"),
    fault("REG-2.pid-as-float", "writes the pid as a number with a fraction"),
    fault("REG-2.no-version", "leaves the version out"),
    fault("REG-2.null-socket", "writes null for the socket that it has not"),
    fault("REG-2.relative-socket", "writes the socket's name for its path"),
    fault("REG-2.local-time", "writes its start in local time"),
    fault("REG-3.upper-case", "writes the id in capitals"),
    fault("REG-3.uuid", "writes the id as a UUID with hyphens"),
    fault("REG-4.of-the-directory", "derives the id from the state directory"),
    fault("REG-4.uuid-bits", "draws a random UUID, of which six bits are fixed"),
    fault("REG-4.clock-and-pid", "makes the id of the time and the pid"),
    fault("REG-5.localhost", "writes the name localhost"),
    fault("REG-5.final-slash", "ends the url with a slash"),
    fault("REG-5.other-family", "listens on ::1 where there is an IPv4 loopback"),
    fault("REG-6.parent", "records its parent, as a daemon does that forks after it took its pid"),
    fault(
        "REG-7.built-in",
        "records the protocol that it was built with, whatever it is configured to speak",
    ),
    fault("REG-8.left-out", "records no protocol"),
];
