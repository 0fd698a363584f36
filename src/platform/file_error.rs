//! Why a file is not used.

use std::io;

use local_daemon_proto::credential::ParseCredentialError;

/// Why a file or directory must not be trusted, or cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileErrorKind {
    /// A symbolic link.
    #[error("it is a symbolic link")]
    Symlink,
    /// Not a regular file.
    #[error("it is not a regular file")]
    NotAFile,
    /// Not a directory.
    #[error("it is not a directory")]
    NotADirectory,
    /// Another user's.
    #[error("it belongs to user {owner}, and this is user {me}")]
    Owner {
        /// The file's owner.
        owner: u32,
        /// The reader.
        me: u32,
    },
    /// It belongs to another user, and this one would have to create something in it (DIR-22).
    #[error("it belongs to user {owner}, and user {me} creates nothing in it")]
    OwnerOfParent {
        /// The directory's owner.
        owner: u32,
        /// This user.
        me: u32,
    },
    /// Group or others may do something with it.
    #[error("its mode {0:04o} lets others in; it has to be owner-only (chmod go= PATH)")]
    Mode(u32),
    /// More than 64 KiB.
    #[error("it is larger than 64 KiB")]
    TooLarge,
    /// A log of events of more than this many bytes.
    #[error("it is longer than the {0} bytes that a log of events may have")]
    Longer(u64),
    /// On a network filesystem.
    #[error("it is on a network filesystem, and a state directory is local to one host")]
    Network,
    /// It is not there.
    #[error("it does not exist")]
    Missing,
    /// It is locked.
    #[error("another process writes to it")]
    Locked,
    /// Nothing in it is of the log that it was opened for.
    #[error("it is not empty and holds no event of this log")]
    Foreign,
    /// Its content is no credential.
    #[error("its content is damaged: {0}")]
    Credential(#[from] ParseCredentialError),
    /// The operating system said no.
    #[error("{0}")]
    Io(#[source] io::Error),
}
