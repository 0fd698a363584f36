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

/// The chapters, each with the prefix that its ids have for good.
macro_rules! chapters {
    ($($name:literal => $prefix:literal),* $(,)?) => {
        documents!(
            /// The normative chapters; the name is the file's stem, such as `05-publish`.
            chapters, "chapters", ".md", [$($name),*]
        );

        /// The id prefix of each chapter, by its file's stem.
        pub(crate) const PREFIXES: &[(&str, &str)] = &[$(($name, $prefix)),*];
    };
}

chapters! {
    "01-scope" => "SCOPE",
    "02-state-directory" => "DIR",
    "03-registration" => "REG",
    "04-credential" => "CRED",
    "05-publish" => "PUB",
    "06-convergence" => "CONV",
    "07-handshake" => "HS",
    "08-gate" => "GATE",
    "09-connect" => "CONN",
    "10-perimeter" => "PER",
    "11-streams" => "STR",
    "12-browser" => "BROW",
    "13-lifecycle" => "LIFE",
    "14-unix-socket" => "SOCK",
    "15-control-plane" => "CTL",
    "16-conformance" => "CONF",
    "17-threat-model" => "THR",
    "18-notes" => "STR",
}

/// The routes of the reference daemon (`OpenAPI` 3.1), with references into `schemas/`.
pub const OPENAPI: &str = include_str!("../openapi.json");

/// The same in one file, which `bundle` prints.
pub const OPENAPI_BUNDLE: &str = include_str!("../openapi.bundle.json");

documents!(
    /// JSON Schemas (draft 2020-12).
    schemas, "schemas", ".schema.json",
    [
        "baseline", "events", "handshake", "interop", "kills", "manifest", "observed-trace", "problem", "record", "replay", "report", "soak", "status"
    ]
);

documents!(
    /// Test vectors; `spec/vectors/README.md` says how to use them.
    vectors, "vectors", ".json",
    ["credentials", "hosts", "notes", "origins", "permissions", "proof", "protocols", "records", "urls"]
);
