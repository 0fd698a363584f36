//! Reads the specification on the command line: `list`, `show` and `check`.

#![forbid(unsafe_code)]

mod render;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use local_daemon_spec::{
    Catalogue, Finding, Profile, Requirement, Role, bundle, chapters, check, schemas, vectors,
};
use serde_json::json;

/// The Local Daemon Protocol's requirements, as the chapters state them.
#[derive(Parser)]
#[command(
    version,
    after_help = "Exit status: 0 as asked, 1 the files are faulty, 2 usage or nothing of that name."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,

    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// List requirements, with counts at the end.
    List {
        /// Only this chapter, such as `publish` or `05-publish`.
        #[arg(long, value_name = "CHAPTER")]
        chapter: Option<String>,
        /// Only this profile.
        #[arg(long)]
        profile: Option<Profile>,
        /// Only what binds this role.
        #[arg(long)]
        role: Option<Role>,
    },
    /// Show one requirement with its place and reason.
    Show {
        /// Such as `PUB-3`.
        id: String,
    },
    /// Check chapters, schemas and vectors.
    Check,
    /// Print the `OpenAPI` document with its schemas inside, as it stands in `spec/openapi.bundle.json`.
    Bundle,
}

const FAULTY: u8 = 1;
const USAGE: u8 = 2;

/// What a command has to say, and how it ends.
struct Outcome {
    stdout: String,
    stderr: String,
    status: u8,
}

impl Outcome {
    fn good(stdout: String) -> Self {
        Self { stdout, stderr: String::new(), status: 0 }
    }

    fn bad(status: u8, message: String) -> Self {
        Self { stdout: String::new(), stderr: message, status }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = run(&arguments);
    let written = io::stdout()
        .write_all(outcome.stdout.as_bytes())
        .and_then(|()| io::stdout().flush())
        .and_then(|()| io::stderr().write_all(outcome.stderr.as_bytes()));
    match written {
        // A reader that has seen enough, as in `list | head`, is no error.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        _ => ExitCode::from(outcome.status),
    }
}

fn run(arguments: &Arguments) -> Outcome {
    if matches!(arguments.command, Command::Check) {
        return report_check(&check(), arguments.json);
    }
    if matches!(arguments.command, Command::Bundle) {
        return Outcome::good(render::pretty(&bundle()));
    }
    let catalogue = match Catalogue::parse(chapters::ALL) {
        Ok(catalogue) => catalogue,
        Err(faults) => {
            return Outcome::bad(FAULTY, lines(&faults));
        }
    };
    match &arguments.command {
        Command::List { chapter, profile, role } => {
            if let Some(slug) = chapter
                && catalogue.chapter(slug).is_none()
            {
                let known: Vec<&str> = catalogue.chapters().iter().map(|c| c.slug.as_str()).collect();
                let message =
                    format!("error: there is no chapter `{slug}`; there are {}\n", known.join(", "));
                return Outcome::bad(USAGE, message);
            }
            let slug = chapter.as_deref().and_then(|slug| catalogue.chapter(slug)).map(|c| c.slug.as_str());
            let wanted = |requirement: &Requirement| {
                slug.is_none_or(|slug| requirement.chapter == slug)
                    && profile.is_none_or(|profile| requirement.profile == profile)
                    && role.is_none_or(|role| requirement.role.binds(role))
            };
            let list: Vec<&Requirement> = catalogue.requirements().filter(|r| wanted(r)).collect();
            Outcome::good(if arguments.json {
                render::list_json(&list)
            } else {
                render::list(&catalogue, &list)
            })
        }
        Command::Show { id } => render::show(&catalogue, id, arguments.json).map_or_else(
            || {
                let nearest = catalogue.nearest(id).join(", ");
                Outcome::bad(
                    USAGE,
                    format!("error: there is no requirement `{id}`; the nearest are {nearest}\n"),
                )
            },
            Outcome::good,
        ),
        Command::Check | Command::Bundle => {
            unreachable!("answered above, since they must survive faulty chapters")
        }
    }
}

fn report_check(findings: &[Finding], as_json: bool) -> Outcome {
    let files = [
        ("chapters", chapters::ALL.len()),
        ("schemas", schemas::ALL.len()),
        ("vectors", vectors::ALL.len()),
    ];
    let stdout = if as_json {
        let checked: serde_json::Map<_, _> =
            files.iter().map(|(what, n)| ((*what).to_owned(), json!(n))).collect();
        render::pretty(&json!({"checked": checked, "findings": findings}))
    } else if findings.is_empty() {
        let checked: Vec<String> = files.iter().map(|(what, n)| format!("{n} {what}")).collect();
        format!("no fault in {}\n", checked.join(", "))
    } else {
        lines(findings)
    };
    Outcome {
        stdout,
        stderr: String::new(),
        status: if findings.is_empty() { 0 } else { FAULTY },
    }
}

fn lines(items: &[impl ToString]) -> String {
    items.iter().map(|item| item.to_string() + "\n").collect()
}
