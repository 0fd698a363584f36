//! The faults of the gate, chapter 08.

use crate::fault::{Fault, fault};

pub(crate) const FAULTS: &[Fault] = &[
    fault("GATE-1.name-alone", "tells its protocol without a number"),
    fault("GATE-1.version", "tells its protocol with its version"),
    fault("GATE-1.constant", "checks what it is configured to speak, and not what it was built with"),
    fault("GATE-2.built-in", "tells the protocol that it was built for, whatever it was told to speak"),
    fault("GATE-2.by-version", "derives the protocol from its version"),
    fault("GATE-2.short-name", "keeps 32 bytes of the name"),
    fault("GATE-3.other-protocol", "is displaced by its own protocol only"),
    fault("GATE-3.older-version", "is not displaced by an older version"),
    fault("GATE-3.another-name", "asks its successor, and stays beside one whose protocol has another name"),
];
