//! Readers that spin, and keep what no reader may ever see.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use super::Facts;
use crate::wait::lock;

/// What one read of a file was, in a caller's eyes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sight {
    /// Whole and valid; with what tells it from others, an id.
    Whole(String),
    /// Partial or invalid; with the reason.
    Broken(String),
}

/// A read that must not have happened.
#[derive(Clone)]
pub struct BrokenRead {
    /// When.
    pub at: Instant,
    /// What was read.
    pub bytes: Vec<u8>,
    /// What is wrong with it.
    pub why: String,
}

impl std::fmt::Debug for BrokenRead {
    // Without the bytes: they may be half of a credential, which nothing would recognise as one.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes: {}", self.bytes.len(), self.why)
    }
}

/// What hostile readers saw.
#[derive(Debug, Clone, Default)]
pub struct ReadReport {
    /// Reads in all, also of what was not there.
    pub reads: u64,
    /// The name was not there.
    pub absent: u64,
    /// Whole reads by their id.
    pub whole: BTreeMap<String, u64>,
    /// How many reads were broken.
    pub broken: u64,
    /// The first of them.
    pub broken_reads: Vec<BrokenRead>,
    /// Opened files whose mode let group or others do something.
    pub loose: u64,
    /// Errors other than "not there", with their counts.
    pub errors: BTreeMap<String, u64>,
    /// What the first reader saw whenever it saw something new: an id, or `None` for absent.
    pub changes: Vec<(Instant, Option<String>)>,
}

/// At most this many broken reads are kept with their bytes.
pub(super) const MOST_BROKEN: usize = 64;
/// At most this many changes are kept.
pub(super) const MOST_CHANGES: usize = 4096;

/// Threads that open and read one file as fast as they can, each read through a new descriptor.
pub struct HostileReader {
    stop: Arc<AtomicBool>,
    reads: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
    report: Arc<Mutex<ReadReport>>,
}

impl HostileReader {
    /// Starts `threads` readers of `path`; every read goes through `classify`.
    pub fn start(
        path: &Path,
        threads: usize,
        classify: impl Fn(&[u8]) -> Sight + Send + Sync + 'static,
    ) -> Self {
        let (stop, reads) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let report = Arc::new(Mutex::new(ReadReport::default()));
        let classify = Arc::new(classify);
        let threads = (0..threads)
            .map(|number| {
                let (stop, reads, report) = (Arc::clone(&stop), Arc::clone(&reads), Arc::clone(&report));
                let (path, classify) = (path.to_owned(), Arc::clone(&classify));
                std::thread::spawn(move || spin(&path, &*classify, number == 0, &stop, &reads, &report))
            })
            .collect();
        Self { stop, reads, threads, report }
    }

    /// How many reads there were so far.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// What was seen so far.
    pub fn report(&self) -> ReadReport {
        ReadReport { reads: self.reads(), ..lock(&self.report).clone() }
    }

    /// Ends the readers and returns what they saw.
    pub fn stop(mut self) -> ReadReport {
        self.end();
        self.report()
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for HostileReader {
    fn drop(&mut self) {
        self.end();
    }
}

fn spin(
    path: &Path,
    classify: &dyn Fn(&[u8]) -> Sight,
    chronicles: bool,
    stop: &AtomicBool,
    reads: &AtomicU64,
    report: &Mutex<ReadReport>,
) {
    let mut last = None;
    while !stop.load(Ordering::Relaxed) {
        let read = File::open(path).and_then(|mut file| {
            let loose = Facts::from(&file.metadata()?).is_loose();
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok((bytes, loose))
        });
        let at = Instant::now();
        // Outside of the lock, so that a slow classifier of one reader does not slow the others.
        let read = read.map(|(bytes, loose)| (classify(&bytes), bytes, loose));
        let mut report = lock(report);
        let seen = match read {
            Ok((sight, bytes, loose)) => {
                report.loose += u64::from(loose);
                match sight {
                    Sight::Whole(id) => {
                        *report.whole.entry(id.clone()).or_default() += 1;
                        Some(Some(id))
                    }
                    Sight::Broken(why) => {
                        report.broken += 1;
                        if report.broken_reads.len() < MOST_BROKEN {
                            report.broken_reads.push(BrokenRead { at, bytes, why });
                        }
                        None
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                report.absent += 1;
                Some(None)
            }
            Err(error) => {
                *report.errors.entry(error.to_string()).or_default() += 1;
                None
            }
        };
        if chronicles && seen.is_some() && seen != last && report.changes.len() < MOST_CHANGES {
            last.clone_from(&seen);
            report.changes.push((at, seen.flatten()));
        }
        drop(report);
        reads.fetch_add(1, Ordering::Relaxed);
        std::thread::yield_now();
    }
}
