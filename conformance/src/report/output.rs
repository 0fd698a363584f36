//! Reports as files: looked at before the run, so that a bad path is known at once, and written at its end.

use std::path::PathBuf;
use std::str::FromStr;

use super::{Report, badge, html, junit, markdown};
use crate::destination::{Destination, Unwritable};
use crate::nearest::nearest;

/// The form of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For programs; the schema is in `spec/schemas`.
    Json,
    /// For CI systems.
    Junit,
    /// For people; one file without references to anything else.
    Html,
    /// For pull requests and job summaries.
    Markdown,
    /// An SVG image with the verdict.
    Badge,
}

impl Format {
    const ALL: [(&'static str, Self); 5] = [
        ("json", Self::Json),
        ("junit", Self::Junit),
        ("html", Self::Html),
        ("markdown", Self::Markdown),
        ("badge", Self::Badge),
    ];

    /// The report in this form.
    pub fn render(self, report: &Report) -> String {
        match self {
            Self::Json => {
                let json = serde_json::to_string_pretty(report).expect("a report has string keys only");
                json + "\n"
            }
            Self::Junit => junit::render(report),
            Self::Html => html::render(report),
            Self::Markdown => markdown::render(report),
            Self::Badge => badge::render(report),
        }
    }
}

/// `FORMAT=FILE`, as on the command line; `-` is standard output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    format: Format,
    path: PathBuf,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (word, path) = text.split_once('=').ok_or("must be FORMAT=FILE, such as json=report.json")?;
        let known = Format::ALL.map(|(word, _)| word);
        let format = Format::ALL.into_iter().find(|(known, _)| *known == word).map(|(_, format)| format);
        let format = format.ok_or_else(|| match nearest(word, known, 1)[..] {
            [meant] => format!("no report format `{word}`; did you mean `{meant}`?"),
            _ => format!("no report format `{word}`; there are {}", known.join(", ")),
        })?;
        if path.is_empty() {
            return Err("no file after `=`".to_owned());
        }
        Ok(Self { format, path: path.into() })
    }
}

/// A report and where it goes.
#[derive(Debug)]
pub struct Output {
    format: Format,
    destination: Destination,
}

impl Output {
    /// Makes sure that the report can be written, and leaves what is at its path alone.
    pub fn open(target: &Target) -> Result<Self, Unwritable> {
        Ok(Self { format: target.format, destination: Destination::open(&target.path)? })
    }

    /// Whether it goes to standard output.
    pub fn is_stdout(&self) -> bool {
        self.destination.is_stdout()
    }

    /// Puts the report at its path.
    pub fn write(self, report: &Report) -> Result<(), Unwritable> {
        self.destination.write(&self.format.render(report))
    }
}
