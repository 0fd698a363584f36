//! What can be wrong with a chapter.

use serde::Serialize;

use crate::catalogue::{Profile, Role};

/// Something in a chapter that cannot be read as the grammar asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{chapter}.md:{line}: {kind}")]
pub struct Fault {
    /// The numbered slug, such as `05-publish`.
    pub chapter: String,
    /// The line in the file, from 1.
    pub line: usize,
    /// What is wrong.
    #[serde(serialize_with = "as_text")]
    pub kind: FaultKind,
}

fn as_text<S: serde::Serializer>(kind: &FaultKind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(kind)
}

/// The ways in which a chapter can be faulty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FaultKind {
    /// The specification has no such chapter, so its ids have no prefix.
    #[error("not a chapter of the specification")]
    UnknownChapter,
    /// The first block is not a heading of the first level.
    #[error("the chapter does not begin with `# Title`")]
    NoTitle,
    /// The id does not have the form `PREFIX-N` with this chapter's prefix and N from 1 without leading zeros.
    #[error("`{id}` is no id of this chapter, whose ids are `{prefix}-1` and so on")]
    BadId {
        /// As written.
        id: String,
        /// What this chapter's ids begin with.
        prefix: &'static str,
    },
    /// An id names two requirements.
    #[error("`{id}` is already used at line {first}")]
    DuplicateId {
        /// As written.
        id: String,
        /// Where it was seen first.
        first: usize,
    },
    /// Numbers below the highest one are not used.
    #[error("{missing} is missing before `{id}`")]
    Gap {
        /// The first id that is not there.
        missing: String,
        /// The next id that is there.
        id: String,
    },
    /// No code word where the role stands.
    #[error("`{0}` has no role (a code word right after the id)")]
    NoRole(String),
    /// No code word where the profile stands.
    #[error("`{0}` has no profile (a code word right after the role)")]
    NoProfile(String),
    /// The role or profile is none of the known ones.
    #[error("`{id}`: {problem}")]
    UnknownWord {
        /// The requirement.
        id: String,
        /// The word and what was expected.
        problem: crate::catalogue::UnknownWord,
    },
    /// The client role and the client profile go together.
    #[error(
        "`{id}` has role `{role}` and profile `{profile}`: the role `client` and the profile `client` go together"
    )]
    ClientProfile {
        /// The requirement.
        id: String,
        /// Its role.
        role: Role,
        /// Its profile.
        profile: Profile,
    },
    /// The sentence binds nobody.
    #[error("`{0}` has no key word in capitals (MUST, MUST NOT, SHOULD, SHOULD NOT, MAY)")]
    NoKeyWord(String),
    /// Two sentences of one item bind.
    #[error("`{0}` holds more than one MUST sentence; one requirement is one sentence")]
    TwoSentences(String),
    /// A MUST without its reason.
    #[error("`{0}` is a MUST without `> Why:` inside the item")]
    NoWhy(String),
}
