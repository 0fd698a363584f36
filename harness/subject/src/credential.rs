//! Chapter 04: the secret.

pub(crate) mod faults;

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, URL_SAFE_NO_PAD};
use rustix::fs::FlockOperation;
use rustix::process::{Resource, getrlimit, setrlimit};
use sha2::{Digest as _, Sha256};

use crate::fault::{broken, window};
use crate::state_directory::{CREDENTIAL, Content, Fault, StateDir, random_hex};

/// What is said of content that is no credential.
const MALFORMED: &str = "it is not 43 characters of base64url and a newline";

/// Lets nothing of this process's memory become a file or go to a program (CRED-15): a file has to be longer than a byte, and
/// a program gets nothing at exactly this limit.
pub(super) fn dump_nothing() {
    let mut limit = getrlimit(Resource::Core);
    limit.current = Some(limit.maximum.unwrap_or(1).min(1));
    let _ = setrlimit(Resource::Core, limit);
}

/// The secret of a state directory. It has no text form but the one that is asked for.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Credential {
    key: [u8; 32],
}

impl Credential {
    /// Takes the content of the file for a credential.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let text = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        decode_32(text).or_else(|| lenient(bytes)).map(|key| Self { key })
    }

    /// Reads it with every check; `None` where there is no file.
    pub(super) fn read(directory: &StateDir) -> Result<Option<Self>, Fault> {
        let path = directory.file(CREDENTIAL);
        match directory.read(CREDENTIAL) {
            Content::Bytes(bytes) => match Self::parse(&bytes) {
                Some(credential) => Ok(Some(credential)),
                None if broken("CRED-8.quoted-when-damaged") => {
                    let content = String::from_utf8_lossy(&bytes);
                    Err(Fault::new(path, format!("{content:?} is not 43 characters of base64url")))
                }
                None => Err(Fault::new(path, MALFORMED)),
            },
            Content::Absent | Content::NoDirectory => Ok(None),
            Content::Refused(fault) => Err(fault),
        }
    }

    /// The credential that is there, or else a new one; of several daemons that make one at once, one has made it.
    pub(super) fn read_or_make(directory: &StateDir) -> Result<Self, Fault> {
        let path = directory.file(CREDENTIAL);
        let cannot = |error| Fault::new(&path, format!("cannot create: {error}"));
        spoil(directory).map_err(cannot)?;
        let turn = broken("CRED-4.impatient").then(|| turn(directory));
        if let Some(None) = turn {
            draw(directory)
                .and_then(|temporary| directory.rename(&temporary, CREDENTIAL))
                .map_err(cannot)?;
        }
        if let Some(credential) = Self::read(directory)? {
            return Ok(credential);
        }
        if let Some(own) = make(directory).map_err(cannot)? {
            return Ok(own);
        }
        Self::read(directory)?.ok_or_else(|| Fault::new(&path, "it vanished"))
    }

    /// The key of the proof.
    pub(super) fn key(&self) -> &[u8; 32] {
        &self.key
    }

    /// The bearer.
    pub(super) fn text(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.key)
    }

    /// Whether a token is this credential, byte for byte, in a time that tells nothing.
    pub(super) fn is(&self, token: &[u8]) -> bool {
        same(&Sha256::digest(self.text()), &Sha256::digest(token))
    }
}

/// What a faulty reader takes for a credential besides.
fn lenient(bytes: &[u8]) -> Option<[u8; 32]> {
    let line = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    if broken("CRED-6.trims") {
        decode_32(bytes.trim_ascii())
    } else if broken("CRED-6.first-line") {
        decode_32(bytes.split(|byte| *byte == b'\n').next()?)
    } else if broken("CRED-6.padding") || broken("CRED-1.padding") {
        decode_32(line.strip_suffix(b"=")?)
    } else if broken("CRED-6.either-alphabet") {
        let standard = line.iter().map(|byte| match byte {
            b'+' => b'-',
            b'/' => b'_',
            other => *other,
        });
        decode_32(&standard.collect::<Vec<u8>>())
    } else if broken("CRED-6.loose-bits") {
        let config = GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true);
        let config =
            config.with_encode_padding(false).with_decode_padding_mode(DecodePaddingMode::RequireNone);
        GeneralPurpose::new(&URL_SAFE, config).decode(line).ok()?.try_into().ok()
    } else if broken("CRED-6.any-secret") {
        Some(Sha256::digest(line).into())
    } else if broken("CRED-6.raw") {
        bytes.try_into().ok()
    } else {
        None
    }
}

/// What a faulty launch does to the credential that it finds.
fn spoil(directory: &StateDir) -> io::Result<()> {
    let path = directory.file(CREDENTIAL);
    let Ok(facts) = fs::symlink_metadata(&path) else {
        return Ok(());
    };
    if broken("DIR-6.credential-replaced") && !facts.is_file() {
        return fs::remove_dir(&path).or_else(|_| fs::remove_file(&path));
    }
    let found = Credential::read(directory);
    let damaged = matches!(&found, Err(fault) if fault.why == MALFORMED);
    if broken("CRED-6.replaces") && damaged || broken("CRED-5.new-at-each-start") && found.is_ok() {
        let temporary = draw(directory)?;
        return directory.rename(&temporary, CREDENTIAL);
    }
    if broken("CRED-5.written-again") && found.is_ok() {
        let temporary = format!("{CREDENTIAL}.tmp-{}", random_hex::<8>());
        directory.write_new(&temporary, &fs::read(&path)?)?;
        return directory.rename(&temporary, CREDENTIAL);
    }
    if broken("CRED-5.ends-the-line") && facts.len() == 43 {
        return fs::OpenOptions::new().append(true).open(path)?.write_all(b"\n");
    }
    Ok(())
}

/// The 32 bytes of a new credential.
fn random_key() -> io::Result<[u8; 32]> {
    let mut key = [0; 32];
    getrandom::fill(&mut key).map_err(io::Error::other)?;
    if broken("CRED-2.fixed-seed") {
        key = Sha256::digest(b"seed").into();
    } else if broken("CRED-2.clock-first") {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        key[..8].copy_from_slice(&since.as_secs().to_be_bytes());
    } else if broken("CRED-2.hex-digits") {
        key.copy_from_slice(random_hex::<16>().as_bytes());
    }
    Ok(key)
}

/// Writes a new credential to a file of another name.
fn draw(directory: &StateDir) -> io::Result<String> {
    let key = random_key()?;
    let end = match () {
        () if broken("CRED-1.no-newline") || broken("CRED-3.newline-later") => "",
        () if broken("CRED-1.padding") => "=\n",
        () => "\n",
    };
    let text = format!("{}{end}", Credential { key }.text());
    let temporary = format!("{CREDENTIAL}.tmp-{}", random_hex::<8>());
    directory.write_new(&temporary, text.as_bytes())?;
    Ok(temporary)
}

/// The lock under which a faulty daemon makes its credential, if its turn comes in time.
fn turn(directory: &StateDir) -> Option<fs::File> {
    let file = fs::File::create(directory.file("credential.lock")).ok()?;
    let until = Instant::now() + Duration::from_millis(150);
    while rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        if Instant::now() > until {
            return None;
        }
        thread::sleep(Duration::from_millis(5));
    }
    thread::sleep(Duration::from_millis(50));
    Some(file)
}

/// Puts a new credential in the place of the one that is there.
pub(super) fn rotate(directory: &StateDir) -> Result<(), Fault> {
    draw(directory)
        .and_then(|temporary| {
            if broken("CRED-14.in-place") {
                fs::write(directory.file(CREDENTIAL), fs::read(directory.file(&temporary))?)?;
                return directory.unlink(&temporary);
            }
            if broken("CRED-14.remove-first") {
                directory.unlink(CREDENTIAL)?;
            }
            if broken("CRED-14.loose") {
                fs::set_permissions(directory.file(&temporary), fs::Permissions::from_mode(0o644))?;
            }
            directory.rename(&temporary, CREDENTIAL)
        })
        .map_err(|error| Fault::new(directory.file(CREDENTIAL), format!("cannot replace: {error}")))
}

/// Links a finished file to the name, without replacing one that is there. Gives back what a faulty daemon uses instead
/// of the file.
fn make(directory: &StateDir) -> io::Result<Option<Credential>> {
    let path = directory.file(CREDENTIAL);
    let temporary = if broken("CRED-3.finishes-a-leftover")
        && let Some(leftover) = directory.names(&format!("{CREDENTIAL}.tmp-")).pop()
    {
        leftover
    } else {
        draw(directory)?
    };
    let own = fs::read(directory.file(&temporary)).ok().and_then(|bytes| Credential::parse(&bytes));
    let linked = if broken("CRED-3.in-place") {
        fs::OpenOptions::new().write(true).create_new(true).open(&path).and_then(|mut file| {
            window();
            file.write_all(&fs::read(directory.file(&temporary))?)
        })
    } else if broken("CRED-4.renames") || broken("CRED-4.looks-then-renames") && !path.exists() {
        directory.rename(&temporary, CREDENTIAL)
    } else if broken("CRED-4.copies") {
        window();
        fs::copy(directory.file(&temporary), &path).map(drop)
    } else {
        directory.link(&temporary, CREDENTIAL)
    };
    if broken("CRED-3.newline-later") && linked.is_ok() {
        window();
        fs::OpenOptions::new().append(true).open(&path)?.write_all(b"\n")?;
    }
    let _ = directory.unlink(&temporary);
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        Ok(()) if broken("CRED-4.copies") => Ok(own),
        Err(_) if broken("CRED-4.not-adopted") => Ok(own),
        _ => Ok(None),
    }
}

/// The 32 bytes that 43 characters of base64url without padding stand for.
pub(super) fn decode_32(text: &[u8]) -> Option<[u8; 32]> {
    // Without the check of the length a decoder might take less.
    (text.len() == 43).then(|| URL_SAFE_NO_PAD.decode(text).ok()).flatten()?.try_into().ok()
}

/// Compares two digests in a time that does not depend on where they differ.
pub(super) fn same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len()
        && one.iter().zip(other).fold(0, |seen, (a, b)| std::hint::black_box(seen | (a ^ b))) == 0
}

/// The credential of a running daemon: that of the file, as long as the file is good, or else the last good one.
pub(super) struct Followed {
    directory: StateDir,
    last: Mutex<Last>,
    /// What the file held when a faulty daemon went on with another one.
    ignored: Option<Credential>,
}

struct Last {
    credential: Credential,
    /// Those before it, for a faulty daemon.
    retired: Vec<(Credential, Instant)>,
    read: Instant,
}

impl Followed {
    pub(super) fn new(directory: StateDir, first: Credential) -> Self {
        let there = broken("CRED-4.not-adopted").then(|| Credential::read(&directory).ok().flatten());
        Self {
            ignored: there.flatten().filter(|there| *there != first),
            directory,
            last: Mutex::new(Last { credential: first, retired: Vec::new(), read: Instant::now() }),
        }
    }

    /// The credential of this moment, and whether it has just been replaced.
    pub(super) fn current(&self) -> (Credential, bool) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let not_yet = broken("CRED-11.rarely-read") && last.read.elapsed() < Duration::from_secs(10);
        // Who goes by its own copy has no reason to look again.
        if broken("CRED-11.read-at-start") || broken("CRED-4.copies") || not_yet {
            return (last.credential.clone(), false);
        }
        last.read = Instant::now();
        let replaced = match self.read() {
            Ok(Some(credential))
                if credential != last.credential && Some(&credential) != self.ignored.as_ref() =>
            {
                let old = std::mem::replace(&mut last.credential, credential);
                last.retired.push((old, Instant::now()));
                if broken("CRED-11.locked") {
                    last.credential = Self::nobodys();
                }
                true
            }
            Ok(None) if broken("CRED-13.makes-one") => make(&self.directory).is_ok(),
            Ok(None) | Err(_) if broken("CRED-13.none-closes") => return (Self::nobodys(), false),
            Ok(None) | Err(_) if broken("CRED-13.exits") => std::process::exit(1),
            _ => false,
        };
        (last.credential.clone(), replaced)
    }

    fn read(&self) -> Result<Option<Credential>, Fault> {
        if broken("CRED-13.unchecked") {
            let bytes = fs::read(self.directory.file(CREDENTIAL));
            return Ok(bytes.ok().and_then(|bytes| Credential::parse(&bytes)));
        }
        Credential::read(&self.directory)
    }

    /// A credential that nobody has.
    fn nobodys() -> Credential {
        Credential { key: random_key().unwrap_or_default() }
    }

    /// The credentials that a faulty daemon takes besides.
    pub(super) fn retired(&self) -> Vec<Credential> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let lasting = Duration::from_secs(10);
        let kept = last.retired.iter().filter(|(_, since)| {
            broken("CRED-12.old-one-too")
                || broken("CRED-12.old-one-for-a-while") && since.elapsed() < lasting
        });
        kept.map(|(credential, _)| credential.clone()).collect()
    }

    /// Whether a faulty daemon lets everybody in.
    pub(super) fn is_open(&self) -> bool {
        broken("CRED-13.none-opens") && !matches!(Credential::read(&self.directory), Ok(Some(_)))
    }
}

/// What a faulty daemon does with the credential that it has.
pub(super) fn betray(credential: &Credential) {
    let text = credential.text();
    let mut helper = Command::new("sleep");
    if broken("CRED-7.argument") {
        helper = Command::new("sh");
        helper.args(["-c", "sleep 1", "helper", &text]);
    } else if broken("CRED-7.environment") {
        helper.arg("1").env("TOKEN", &text);
    } else if broken("CRED-7.own-environment") && std::env::var_os("TOKEN").is_none() {
        let _ = Command::new("/proc/self/exe").args(std::env::args_os().skip(1)).env("TOKEN", text).exec();
        return;
    } else {
        if broken("CRED-8.at-start") {
            eprintln!("the token is {text}");
        }
        return;
    }
    thread::spawn(move || helper.status());
}
