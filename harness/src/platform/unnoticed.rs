//! Changes of files that the kernel announces to no process. Those of the suite are noted here, for the recorder of what
//! happens.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;

use crate::wait::lock;

/// A write of the suite to `path` between the two instants.
struct Write {
    path: PathBuf,
    after: Instant,
    by: Instant,
}

/// The writes of the suite that were not taken yet.
static WRITES: Mutex<Vec<Write>> = Mutex::new(Vec::new());

/// Overwrites the bytes of `file` at `at` without a word to those who watch it: a write through a shared mapping is the
/// one change of a file that the kernel notifies nobody of. `file` must be open for reading and writing, and long
/// enough.
pub fn overwrite_unnoticed(file: &File, at: usize, bytes: &[u8]) -> io::Result<()> {
    let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    if bytes.is_empty() || at.checked_add(bytes.len()).is_none_or(|end| end > length) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let after = Instant::now();
    // SAFETY: a new mapping of a file of `length` bytes, at an address that the kernel chooses; the copy stays inside of
    // it by the check above, and nothing else refers to it when it is unmapped. If the file is cut meanwhile, the copy
    // ends this process by SIGBUS and reads no foreign memory.
    unsafe {
        let (kind, access) = (libc::MAP_SHARED, libc::PROT_READ | libc::PROT_WRITE);
        let start = libc::mmap(std::ptr::null_mut(), length, access, kind, file.as_raw_fd(), 0);
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), start.cast::<u8>().add(at), bytes.len());
        libc::munmap(start, length);
    }
    if let Ok(path) = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())) {
        lock(&WRITES).push(Write { path, after, by: Instant::now() });
    }
    Ok(())
}

/// Takes the notes of the writes to `path`: the two instants between which each happened.
pub(crate) fn take_unnoticed(path: &Path) -> Vec<(Instant, Instant)> {
    let mut writes = lock(&WRITES);
    writes
        .extract_if(.., |write| write.path == path)
        .map(|write| (write.after, write.by))
        .collect()
}
