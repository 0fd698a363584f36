//! The Local Daemon Protocol as data: the normative chapters, the catalogue of requirements read from them, the
//! JSON Schemas and the test vectors.
//!
//! Nothing here implements the protocol. The text in `spec/chapters` is the only place where a requirement is
//! written down; everything that cites one does so by its id and finds the sentence through [`catalogue`].

#![forbid(unsafe_code)]

mod bundle;
mod catalogue;
mod check;
pub mod documents;
mod parse;
pub mod vectors;

pub use bundle::bundle;
pub use catalogue::{Catalogue, Chapter, Level, Planned, Profile, Requirement, Role, UnknownWord};
pub use check::{Finding, check, check_schema, check_vectors};
pub use documents::{chapters, schemas};
pub use parse::{Fault, FaultKind};

use std::sync::LazyLock;

/// The catalogue of the chapters in this package, parsed on first use.
///
/// # Panics
///
/// When a chapter is faulty: a build whose text does not parse has no requirements to judge by. `check` lists the
/// faults without panicking.
pub fn catalogue() -> &'static Catalogue {
    static CATALOGUE: LazyLock<Catalogue> = LazyLock::new(|| {
        Catalogue::parse(chapters::ALL).unwrap_or_else(|faults| {
            let lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
            panic!("the specification's chapters are faulty:\n{}", lines.join("\n"))
        })
    });
    &CATALOGUE
}
