//! The faults of the credential, chapter 04.

use super::{Fault, fault};

pub(super) const FAULTS: &[Fault] = &[
    fault("CRED-1.no-newline", "writes the 43 characters alone"),
    fault("CRED-1.padding", "writes the text with padding"),
    fault(
        "CRED-2.fixed-seed",
        "draws the bytes from a generator with a fixed seed",
    ),
    fault(
        "CRED-2.clock-first",
        "begins the bytes with the time, so that no two are alike",
    ),
    fault(
        "CRED-2.hex-digits",
        "takes the text of 16 random bytes for 32 random bytes",
    ),
    fault(
        "CRED-3.in-place",
        "creates the file under its name, and then writes it",
    ),
    fault(
        "CRED-3.newline-later",
        "links the file to its name, and then ends its line",
    ),
    fault(
        "CRED-3.finishes-a-leftover",
        "links a temporary file that a killed launch has left to the name",
    ),
    fault("CRED-4.renames", "renames the finished file over the name"),
    fault(
        "CRED-4.looks-then-renames",
        "looks whether there is one, and then renames over the name",
    ),
    fault(
        "CRED-4.copies",
        "looks whether there is one, copies into the name, and goes by its own",
    ),
    fault(
        "CRED-4.not-adopted",
        "goes on with its own where another was faster",
    ),
    fault(
        "CRED-4.impatient",
        "takes its turn to make one, and makes one out of turn when it had to wait",
    ),
    fault("CRED-5.new-at-each-start", "makes a new one at each start"),
    fault(
        "CRED-5.written-again",
        "writes the one that is there again at each start",
    ),
    fault(
        "CRED-5.ends-the-line",
        "appends the newline that a good one does not have",
    ),
    fault(
        "CRED-6.replaces",
        "makes a new one where it cannot read the one that is there",
    ),
    fault("CRED-6.trims", "cuts white space off both ends"),
    fault("CRED-6.first-line", "reads the first line and no further"),
    fault("CRED-6.padding", "decodes with padding too"),
    fault("CRED-6.either-alphabet", "decodes either alphabet of base64"),
    fault(
        "CRED-6.loose-bits",
        "ignores the last two bits of the last character",
    ),
    fault("CRED-6.any-secret", "takes any text for a secret, and hashes it"),
    fault("CRED-6.raw", "takes 32 bytes for the key itself"),
    fault("CRED-7.argument", "gives it to a helper as an argument"),
    fault("CRED-7.environment", "gives it to a helper in the environment"),
    fault(
        "CRED-7.own-environment",
        "starts itself again with it in the environment",
    ),
    fault(
        "CRED-8.at-start",
        "prints it when it starts, for the user to copy",
    ),
    fault("CRED-8.request-line", "logs the request line with its query"),
    fault("CRED-8.refused-header", "logs the header that it refuses"),
    fault(
        "CRED-8.log-file",
        "writes each request's headers into a log of the owner's own",
    ),
    fault(
        "CRED-8.quoted-when-damaged",
        "quotes what it cannot take for a credential",
    ),
    fault("CRED-9.path-repeated", "repeats the path that it does not know"),
    fault("CRED-9.header-repeated", "repeats the header that it refuses"),
    fault("CRED-9.body-repeated", "repeats the body that it cannot read"),
    fault("CRED-9.status", "tells it in its status, to those who know it"),
    fault("CRED-15.dumps", "leaves the limit of core dumps as it is"),
    fault("CRED-11.read-at-start", "reads the file at its start alone"),
    fault("CRED-11.rarely-read", "reads the file every 10 s"),
    fault(
        "CRED-11.locked",
        "takes no credential any more once the file has changed",
    ),
    fault(
        "CRED-12.old-one-too",
        "takes every credential that it has ever read",
    ),
    fault("CRED-12.old-one-for-a-while", "takes the old one for 10 s more"),
    fault(
        "CRED-13.none-opens",
        "lets everybody in while there is no credential",
    ),
    fault(
        "CRED-13.none-closes",
        "lets nobody in while there is no good credential",
    ),
    fault("CRED-13.makes-one", "makes a new one where the file is missing"),
    fault(
        "CRED-13.unchecked",
        "checks the file at its start, and not when it reads it again",
    ),
    fault("CRED-13.exits", "ends when it cannot read the file"),
];
