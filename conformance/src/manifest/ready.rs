//! Checks the placeholders of a manifest and finds every program.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use local_daemon_spec::Profile;

use super::profiles::with_included;
use super::{BrowserSection, Manifest, ManifestFault, Origins, fill, placeholders};

/// What may stand in braces in every command, environment value and body.
const PLACEHOLDERS: [&str; 4] = ["state_dir", "home", "port", "case"];

/// What also may in commands and environment values: the directory of the manifest, for a script that is an argument.
const MANIFEST_DIR: &str = "manifest_dir";

impl Manifest {
    /// Checks placeholders, fills in the manifest's directory and finds the programs.
    pub(super) fn ready(mut self, dir: &Path) -> Result<Self, ManifestFault> {
        self.place(dir)?;
        self.subject.profiles = with_included(&self.subject.profiles);
        if self.subject.name.is_empty() {
            let program = self.program().and_then(Path::file_name);
            self.subject.name = program.unwrap_or_default().to_string_lossy().into_owned();
        }
        let daemons = |profile: &&Profile| **profile != Profile::Client;
        match self.subject.profiles.iter().find(daemons) {
            None if self.daemon.run.is_empty() => {}
            Some(&profile) if self.daemon.run.is_empty() => {
                return Err(ManifestFault::Missing {
                    key: "daemon.run",
                    profile,
                    help: "give the command, or claim no profile but `client` in `subject.profiles`",
                });
            }
            _ => resolve("daemon.run", &mut self.daemon.run)?,
        }
        if let Some(unnamed) = &mut self.daemon.unnamed {
            resolve("daemon.unnamed", unnamed)?;
        }
        if !self.subject.version.is_empty() {
            resolve("subject.version", &mut self.subject.version)?;
        }
        let origins = self.daemon.origins.iter_mut().flat_map(Origins::commands);
        let browser = self.browser.iter_mut().flat_map(BrowserSection::commands);
        for (key, command) in origins.chain(browser) {
            resolve(key, command)?;
        }
        if let Some(client) = &mut self.client {
            for (key, command) in client.commands() {
                resolve(key, command)?;
            }
            if let Some(stand) = &mut client.daemon {
                if stand.command.is_empty() {
                    stand.command.extend(self.daemon.run.first().cloned());
                }
                resolve("client.daemon.command", &mut stand.command)?;
            }
        }
        Ok(self)
    }

    /// Checks the placeholders of every text, and fills in the manifest's directory where it is known.
    pub(super) fn place(&mut self, dir: &Path) -> Result<(), ManifestFault> {
        const DIR: &[&str] = &[MANIFEST_DIR];
        const ORIGIN: &[&str] = &["origin", MANIFEST_DIR];
        let dir = dir.to_string_lossy();
        let place = |key: &str, text: &mut String, more: &[&str]| {
            let known: Vec<&str> = PLACEHOLDERS.iter().chain(more).copied().collect();
            if let Some((_, name)) = placeholders(text).find(|(_, name)| !known.contains(name)) {
                let known: Vec<String> = known.iter().map(|name| format!("{{{name}}}")).collect();
                return Err(ManifestFault::Placeholder {
                    key: key.to_owned(),
                    name: name.to_owned(),
                    help: format!("known here: {}", known.join(", ")),
                });
            }
            if more.contains(&MANIFEST_DIR) {
                *text = fill(text, &[(MANIFEST_DIR, &dir)]);
            }
            Ok(())
        };
        let all = |key: &str, texts: &mut [String], more: &[&str]| {
            texts.iter_mut().try_for_each(|text| place(key, text, more))
        };
        let (daemon, binding) = (&mut self.daemon, &mut self.binding);
        all("subject.version", &mut self.subject.version, DIR)?;
        all("daemon.run", &mut daemon.run, DIR)?;
        all("daemon.unnamed", daemon.unnamed.as_deref_mut().unwrap_or_default(), DIR)?;
        for (name, value) in &mut daemon.env {
            place(&format!("daemon.env.{name}"), value, DIR)?;
        }
        for (name, value) in &mut daemon.verbose {
            place(&format!("daemon.verbose.{name}"), value, DIR)?;
        }
        if let Some(origins) = &mut daemon.origins {
            all("daemon.origins.args", &mut origins.args, ORIGIN)?;
            for (key, command) in origins.commands() {
                all(key, command, ORIGIN)?;
            }
        }
        if let Some(yields) = &mut daemon.yields {
            all("daemon.yields.args", &mut yields.args, DIR)?;
        }
        for (key, command) in self.browser.iter_mut().flat_map(BrowserSection::commands) {
            all(key, command, if key == "browser.handoff" { ORIGIN } else { DIR })?;
        }
        if let Some(host) = self.browser.as_mut().and_then(|browser| browser.host.as_mut()) {
            all("browser.host.args", &mut host.args, &["host"])?;
        }
        if let Some(client) = &mut self.client {
            for (key, command) in client.commands() {
                all(key, command, DIR)?;
            }
            for (name, value) in &mut client.env {
                place(&format!("client.env.{name}"), value, DIR)?;
            }
            if let Some(stand) = &mut client.daemon {
                all("client.daemon.command", &mut stand.command, DIR)?;
            }
            if let Some(deadline) = &mut client.deadline {
                all("client.deadline.args", &mut deadline.args, &["seconds"])?;
            }
            if let Some(replace) = &mut client.replace {
                all("client.replace.args", &mut replace.args, &[])?;
            }
        }
        if let Some(emit) = &mut binding.emit {
            place("binding.emit", &mut emit.path, &["n"])?;
            emit.body.iter_mut().try_for_each(|body| place("binding.emit", body, &["n", "pad"]))?;
        }
        let operations = [
            ("binding.authenticated_read", &mut binding.authenticated_read),
            ("binding.mutation", &mut binding.mutation),
            ("binding.shutdown", &mut binding.shutdown),
            ("binding.ticket", &mut binding.ticket),
        ];
        for (key, operation) in operations {
            if let Some(operation) = operation {
                place(key, &mut operation.path, &[])?;
                operation.body.iter_mut().try_for_each(|body| place(key, body, &[]))?;
            }
        }
        Ok(())
    }
}

/// Replaces a command's first word by the absolute path of the program.
fn resolve(key: &str, command: &mut [String]) -> Result<(), ManifestFault> {
    let program = command.first_mut().filter(|program| !program.is_empty());
    let program = program.ok_or_else(|| ManifestFault::NoCommand(key.to_owned()))?;
    let found = find(program).ok_or_else(|| ManifestFault::NoProgram {
        key: key.to_owned(),
        program: program.clone(),
        looked: if program.contains('/') {
            "that may be run at this path".to_owned()
        } else {
            "that may be run beside daemonspec or in PATH".to_owned()
        },
        help: "a name with a slash is relative to the current directory; a bare name is looked up beside the daemonspec \
               executable, then in PATH"
            .to_owned(),
    })?;
    *program = found.to_string_lossy().into_owned();
    Ok(())
}

fn find(program: &str) -> Option<PathBuf> {
    let runnable = |path: &PathBuf| {
        std::fs::metadata(path).is_ok_and(|facts| facts.is_file() && facts.permissions().mode() & 0o111 != 0)
    };
    if program.contains('/') {
        return std::path::absolute(program).ok().filter(runnable);
    }
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.to_owned()));
    let path = std::env::var_os("PATH").unwrap_or_default();
    beside
        .into_iter()
        .chain(std::env::split_paths(&path))
        .map(|folder| folder.join(program))
        .find(runnable)
}
