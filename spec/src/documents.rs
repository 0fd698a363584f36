//! The files of the specification, compiled in. Each list names every file of its folder; a test compares them.

/// One `(name, text)` list a folder, with a lookup by name.
macro_rules! documents {
    ($(#[$docs:meta])* $module:ident, $folder:literal, $extension:literal, [$($name:literal),* $(,)?]) => {
        $(#[$docs])*
        pub mod $module {
            /// Name and text of each file, in the order of the folder.
            pub const ALL: &[(&str, &str)] =
                &[$(($name, include_str!(concat!("../", $folder, "/", $name, $extension)))),*];

            /// The text of one file by its name.
            pub fn get(name: &str) -> Option<&'static str> {
                ALL.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
            }
        }
    };
}

documents!(
    /// The normative chapters; the name is the file's stem, such as `05-publish`.
    chapters, "chapters", ".md", [
        "01-scope",
        "02-state-directory",
        "03-registration",
        "04-credential",
        "05-publish",
        "06-convergence",
        "07-handshake",
        "08-gate",
        "09-connect",
        "16-conformance",
    ]
);

documents!(
    /// JSON Schemas (draft 2020-12).
    schemas, "schemas", ".json", []
);

documents!(
    /// Test vectors; `spec/vectors/README.md` says how to use them.
    vectors, "vectors", ".json", []
);

/// The permanent id prefix of each chapter, by its numbered slug.
pub(crate) const PREFIXES: &[(&str, &str)] = &[
    ("01-scope", "SCOPE"),
    ("02-state-directory", "DIR"),
    ("03-registration", "REG"),
    ("04-credential", "CRED"),
    ("05-publish", "PUB"),
    ("06-convergence", "CONV"),
    ("07-handshake", "HS"),
    ("08-gate", "GATE"),
    ("09-connect", "CONN"),
    ("10-perimeter", "PER"),
    ("11-streams", "STR"),
    ("12-browser", "BROW"),
    ("13-lifecycle", "LIFE"),
    ("14-unix-socket", "SOCK"),
    ("15-control-plane", "CTL"),
    ("16-conformance", "CONF"),
    ("17-threat-model", "THR"),
];
