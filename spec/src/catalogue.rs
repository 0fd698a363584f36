//! What the chapters say, as values.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A word that belongs to none of the known ones of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{word}` is no {kind}; known: {known}")]
pub struct UnknownWord {
    /// What the word should have been: `level`, `role` or `profile`.
    pub kind: &'static str,
    /// The word as written.
    pub word: String,
    /// The words that would have been understood.
    pub known: String,
}

/// A closed set of words that are written the same in the text, on the command line and in JSON.
macro_rules! words {
    ($(#[$docs:meta])* $name:ident, $kind:literal, { $($(#[$variant_docs:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$docs])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$variant_docs])* #[serde(rename = $word)] $variant,)+
        }

        impl $name {
            /// All of them, in the order of the specification.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The word as it is written.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = UnknownWord;

            fn from_str(word: &str) -> Result<Self, UnknownWord> {
                Self::ALL.iter().copied().find(|known| known.as_str() == word).ok_or_else(|| UnknownWord {
                    kind: $kind,
                    word: word.to_owned(),
                    known: [$($word),+].join(", "),
                })
            }
        }
    };
}

words!(
    /// How binding a requirement is (RFC 2119).
    Level, "level", {
        /// Required.
        Must = "must",
        /// Forbidden.
        MustNot = "must-not",
        /// Recommended: not doing so needs a reason.
        Should = "should",
        /// Discouraged: doing so needs a reason.
        ShouldNot = "should-not",
        /// Permitted.
        May = "may",
    }
);

impl Level {
    /// The key word as it stands in a sentence.
    pub const fn key_word(self) -> &'static str {
        match self {
            Self::Must => "MUST",
            Self::MustNot => "MUST NOT",
            Self::Should => "SHOULD",
            Self::ShouldNot => "SHOULD NOT",
            Self::May => "MAY",
        }
    }

    /// Whether a violation means that the subject does not conform.
    pub const fn is_must(self) -> bool {
        matches!(self, Self::Must | Self::MustNot)
    }
}

words!(
    /// Who a requirement binds.
    Role, "role", {
        /// The process that publishes itself.
        Daemon = "daemon",
        /// The process that looks for a daemon.
        Client = "client",
        /// Either one.
        Both = "both",
    }
);

impl Role {
    /// Whether a requirement of this role binds somebody who plays `other`.
    pub const fn binds(self, other: Self) -> bool {
        matches!(
            (self, other),
            (Self::Both, _) | (_, Self::Both) | (Self::Daemon, Self::Daemon) | (Self::Client, Self::Client)
        )
    }
}

words!(
    /// A set of requirements that an implementation claims together.
    Profile, "profile", {
        /// Files, publishing, convergence, handshake, gate.
        Core = "core",
        /// The mutual proof of the credential.
        Proof = "proof",
        /// Who is let in over HTTP.
        Perimeter = "perimeter",
        /// Resumable event streams.
        Streams = "streams",
        /// Web pages as clients.
        Browser = "browser",
        /// Start, stop, status, installation.
        Lifecycle = "lifecycle",
        /// The same HTTP on a Unix socket.
        UnixSocket = "unix-socket",
        /// Notes that clients leave for each other.
        Notes = "notes",
        /// Credentials that may do less.
        Grants = "grants",
        /// Programs that outlive their terminal.
        Sessions = "sessions",
        /// Addresses that lead to what runs behind them.
        Proxies = "proxies",
        /// Sessions, proxies, grants.
        ControlPlane = "control-plane",
        /// Everything that binds a client.
        Client = "client",
    }
);

/// Whether anything judges a chapter yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "planned", content = "note", rename_all = "kebab-case")]
pub enum Planned {
    /// Its requirements are in force.
    No,
    /// The requirements that bind clients are planned, with the note that says so.
    Client(String),
    /// All of its requirements are planned, with the note that says so.
    Whole(String),
}

impl Planned {
    /// Whether a requirement of this role is planned in the chapter.
    pub fn covers(&self, role: Role) -> bool {
        match self {
            Self::No => false,
            Self::Client(_) => role == Role::Client,
            Self::Whole(_) => true,
        }
    }

    /// What the chapter's head says about it.
    pub fn note(&self) -> Option<&str> {
        match self {
            Self::No => None,
            Self::Client(note) | Self::Whole(note) => Some(note),
        }
    }
}

/// One chapter of the specification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Chapter {
    /// The name without its number, such as `publish`.
    pub slug: String,
    /// Its place in the reading order, from 1.
    pub number: u8,
    /// The heading.
    pub title: String,
    /// What its ids begin with, such as `PUB`.
    pub prefix: String,
    /// Whether its requirements are in force.
    #[serde(flatten)]
    pub planned: Planned,
    /// In the order of the text.
    pub requirements: Vec<Requirement>,
}

impl Chapter {
    /// The name of its file in `spec/chapters`.
    pub fn file(&self) -> String {
        format!("{:02}-{}.md", self.number, self.slug)
    }
}

/// One sentence that binds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Requirement {
    /// The permanent id, such as `PUB-3`.
    pub id: String,
    /// How binding it is.
    pub level: Level,
    /// Who it binds.
    pub role: Role,
    /// The profile it belongs to.
    pub profile: Profile,
    /// The slug of its chapter.
    pub chapter: String,
    /// The sentence, with code in back quotes.
    pub text: String,
    /// The reason, trace or observation behind it.
    pub why: Option<String>,
    /// Why no black-box case can observe it, where that is so.
    pub untestable: Option<String>,
    /// Whether its chapter's head says that nothing judges it yet.
    pub planned: bool,
    /// The line in the chapter's file, from 1.
    pub line: usize,
}

/// All chapters with their requirements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalogue {
    pub(crate) chapters: Vec<Chapter>,
}

impl Catalogue {
    /// The chapters in reading order.
    pub fn chapters(&self) -> &[Chapter] {
        &self.chapters
    }

    /// A chapter by its slug, with or without its number.
    pub fn chapter(&self, slug: &str) -> Option<&Chapter> {
        self.chapters.iter().find(|chapter| {
            chapter.slug == slug || chapter.file().strip_suffix(".md").is_some_and(|stem| stem == slug)
        })
    }

    /// Every requirement, in reading order.
    pub fn requirements(&self) -> impl Iterator<Item = &Requirement> {
        self.chapters.iter().flat_map(|chapter| &chapter.requirements)
    }

    /// A requirement by its exact id.
    pub fn get(&self, id: &str) -> Option<&Requirement> {
        self.requirements().find(|requirement| requirement.id == id)
    }

    /// The ids that look most like `id`, the likeliest first.
    pub fn nearest(&self, id: &str) -> Vec<&str> {
        const SHOWN: usize = 3;
        let wanted = id.to_uppercase();
        let mut ranked: Vec<(usize, &str)> = self
            .requirements()
            .map(|requirement| (strsim::levenshtein(&wanted, &requirement.id), requirement.id.as_str()))
            .collect();
        ranked.sort_by_key(|(distance, _)| *distance);
        ranked.into_iter().take(SHOWN).map(|(_, id)| id).collect()
    }
}
