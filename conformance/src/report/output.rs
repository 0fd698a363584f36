//! Reports as files: opened before the run, so that a bad path is known at once, and written whole at its end.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use tempfile::NamedTempFile;

use super::{Report, badge, html, junit, markdown};
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

/// `FORMAT=FILE`, as on the command line.
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

/// A report that cannot be written. Always exit status 3.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the report {}: {source}", .path.display())]
pub struct OutputFault {
    path: PathBuf,
    source: std::io::Error,
}

/// A file that is about to become a report.
#[derive(Debug)]
pub struct Output {
    target: Target,
    file: NamedTempFile,
}

impl Output {
    /// Makes sure that the report can be written, and leaves what is at its path alone.
    pub fn open(target: Target) -> Result<Self, OutputFault> {
        let fault = |source| OutputFault { path: target.path.clone(), source };
        if target.path.is_dir() {
            return Err(fault(std::io::ErrorKind::IsADirectory.into()));
        }
        let folder = target
            .path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        // Like any other file of the user's: the mask decides, not the privacy of temporary files.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        let file = tempfile::Builder::new().prefix(".daemonspec-").permissions(mode).tempfile_in(folder);
        Ok(Self { file: file.map_err(fault)?, target })
    }

    /// Puts the report at its path, whole or not at all.
    pub fn write(mut self, report: &Report) -> Result<(), OutputFault> {
        let text = self.target.format.render(report);
        let written = self.file.write_all(text.as_bytes());
        let placed = written.and_then(|()| self.file.persist(&self.target.path).map_err(|error| error.error));
        placed.map(drop).map_err(|source| OutputFault { path: self.target.path, source })
    }
}
