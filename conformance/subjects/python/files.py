"""The state directory and its files: made for their owner alone, and checked before they are trusted (chapter 02)."""

import errno
import os
import re
import stat

MOST = 64 * 1024  # bytes of a file (DIR-9)


class Refused(Exception):
    """A file check failed (DIR-6 to DIR-9). The text names the path and the fault (DIR-11)."""

    def __init__(self, path, fault):
        super().__init__(f"{path}: {fault}")


class Unread(Refused):
    """The system failed to read the file, which says nothing about it."""


def state_dir(option, component):
    """Where both sides look (DIR-1 to DIR-3, DIR-17), without a final slash, by which the system would follow a link.
    The directory is named by the option or by the component's own variable. A child gets it by the option, so there is
    no variable that could speak to another process (DIR-18)."""
    path = option or os.environ.get(re.sub("[^A-Z0-9]", "_", component.upper()) + "_STATE_DIR")
    if not path:
        base = os.environ.get("XDG_STATE_HOME", "")
        path = os.path.join(base if os.path.isabs(base) else os.path.expanduser("~/.local/state"), component)
    return os.path.abspath(path)


def check(path, facts, kind):
    """The file checks, on what the open descriptor tells and not on what stood at the path before."""
    if not kind(facts.st_mode):
        raise Refused(path, "is not a directory" if kind is stat.S_ISDIR else "is not a regular file")
    if facts.st_uid != os.geteuid():
        raise Refused(path, f"belongs to user {facts.st_uid}, not to user {os.geteuid()}")
    if facts.st_mode & 0o077:
        raise Refused(path, f"has mode {stat.S_IMODE(facts.st_mode):04o}: group or others are let in")
    if stat.S_ISREG(facts.st_mode) and facts.st_size > MOST:
        raise Refused(path, f"is larger than {MOST} bytes")


def open_checked(path, kind):
    """Opens without following a link, or waiting for whoever writes to a FIFO. FileNotFoundError goes through."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        if os.path.islink(path):
            raise Refused(path, "is a symbolic link") from None
        judged = error.errno in (errno.EACCES, errno.EPERM, errno.ENXIO)
        raise (Refused if judged else Unread)(path, f"cannot be opened: {error.strerror}") from None
    try:
        check(path, os.fstat(fd), kind)
    except Refused:
        os.close(fd)
        raise
    return fd


def open_log(path):
    """The log of a daemon that is about to be started, open for reading too, if it may be written (DIR-20)."""
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(path, flags, 0o600)
    except OSError as error:
        link = os.path.islink(path)
        raise Refused(path, "is a symbolic link" if link else f"cannot be opened: {error.strerror}") from None
    facts = os.fstat(fd)
    if stat.S_ISREG(facts.st_mode) and facts.st_uid == os.geteuid():
        return fd
    os.close(fd)
    what = f"belongs to user {facts.st_uid}" if stat.S_ISREG(facts.st_mode) else "is not a regular file"
    raise Refused(path, what)


def check_state_dir(path):
    os.close(open_checked(path, stat.S_ISDIR))


def read_checked(path):
    """A file's content, never more than the bound even if the file grows meanwhile."""
    fd = open_checked(path, stat.S_ISREG)
    with open(fd, "rb") as file:
        try:
            content = file.read(MOST + 1)
        except OSError as error:
            raise Unread(path, f"cannot be read: {error.strerror}") from None
    if len(content) > MOST:
        raise Refused(path, f"is larger than {MOST} bytes")
    return content


def write_new(path, content):
    """A finished file under a name that was free, of mode 0600 from the start, and flushed (DIR-5, PUB-5, PUB-6)."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(fd)


def replace(path, content, unless=lambda: False):
    """Puts a finished file in the place of what is there: a reader sees either, whole (PUB-3, PUB-5, CRED-14). Asks
    `unless` at the last moment; returns whether the file is in place."""
    temporary = f"{path}.tmp-{os.urandom(8).hex()}"
    try:
        write_new(temporary, content)
        if unless():
            return False
        os.rename(temporary, path)
        return True
    finally:
        unlink(temporary)  # PUB-13


def make_missing(path):
    """Creates a directory and the missing ones above it, but none in another user's directory (DIR-22)."""
    above, name = os.path.split(path)
    try:
        fd = os.open(above, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        make_missing(above)
        fd = os.open(above, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        owner = os.fstat(fd).st_uid
        if owner not in (0, os.geteuid()):
            raise Refused(path, f"cannot be created: {above} belongs to user {owner}")
        os.mkdir(name, 0o700, dir_fd=fd)  # DIR-4, DIR-23; main() has seen to the umask
    except FileExistsError:
        pass
    finally:
        os.close(fd)


def have_state_dir(path):
    try:
        if not os.path.lexists(path):
            make_missing(path)
    except OSError as error:
        raise Refused(path, f"cannot be created: {error.strerror}") from None  # DIR-12
    check_state_dir(path)
    device, kind = os.stat(path).st_dev, ""
    with open("/proc/self/mountinfo") as mounts:
        for mount in mounts:
            if f" {os.major(device)}:{os.minor(device)} " in mount:
                kind = mount.split(" - ")[1].split()[0]
    if re.match(r"nfs|cifs|smb|9p|fuse\.sshfs|ceph|afs|glusterfs", kind):
        raise Refused(path, f"is on a network filesystem ({kind})")  # DIR-13


def unlink(path):
    try:
        os.unlink(path)
    except OSError:
        pass
