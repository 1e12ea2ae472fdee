"""Writes files completely or not at all, and keeps two programs from writing the same ones."""

import contextlib
import datetime
import errno
import hashlib
import os
import pathlib
import re
import secrets
import socket
import sys
from collections.abc import Iterator

from tramp_jax.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_LONGEST = 255  # bytes in a file's name
# Errors of disks that cannot lock, and of folders where no lock file can be created.
_CANNOT_LOCK = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EACCES, errno.EPERM, errno.EROFS}


def expanded(text: str) -> pathlib.Path:
    """The path that a command's option names. Shells do not expand the ~ in ``--out=~/x``, so this does."""
    return pathlib.Path(os.path.expanduser(text))


def check_mounted(path: pathlib.Path | str) -> None:
    """Refuses an address such as gs://bucket/x, which only packed data may have, and which would become a folder here.

    Raises:
      UserError: bad_path.
    """
    if re.match(r"\w{2,}:/", str(path)):  # a pathlib.Path has lost the second slash
        cure = "copy the files to a disk, or mount the bucket; only packed data can be read from an address"
        raise UserError("bad_path", f"{path}: is an address, not a path on a disk; {cure}")


def check_name(path: pathlib.Path | str) -> None:
    """Refuses a name that is not UTF-8, perhaps from an old disk or archive, because no table or report can hold it.

    Raises:
      UserError: bad_path.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise UserError("bad_path", f"{path}: this name is not UTF-8; rename the file or folder") from error


def shortened(name: str, spare: int = 0) -> str:
    """A name that leaves ``spare`` bytes: the same, or its beginning with a digest of all of it."""
    whole = os.fsencode(name)
    if len(whole) <= _LONGEST - spare:
        return name
    start = whole[: _LONGEST - spare - 9].decode(errors="ignore")  # drops a letter that was cut in half
    return f"{start}~{hashlib.sha256(whole).hexdigest()[:8]}"


def hidden(path: pathlib.Path, ending: str) -> pathlib.Path:
    """The path ``.NAME.ending`` beside ``path``, for an unfinished or temporary file."""
    return path.with_name(f".{shortened(path.name, len(ending) + 2)}.{ending}")


def check_place(path: pathlib.Path) -> None:
    """Refuses an output that cannot be created, before any work is done. Missing folders are created with the output.

    Raises:
      UserError: bad_path if the path is an address, or lies below a file.
    """
    check_mounted(path)
    there = next(each for each in pathlib.Path(os.path.abspath(path)).parents if each.exists())
    if not there.is_dir():
        raise UserError("bad_path", f"{path}: {there} is a file, not a folder; correct the path")


def check_new(path: pathlib.Path, overwrite: bool, option: str = "--out") -> None:
    """Refuses to replace a file, which could be a patient's video, unless the user said so.

    Raises:
      UserError: file_exists; it names ``option``, which chose the file; or see ``check_place``.
    """
    check_place(path)
    if path.exists() and not overwrite:
        cure = f"name another file with {option}, or replace it with --overwrite"
        raise UserError("file_exists", f"{path} exists; {cure}")


def state(path: pathlib.Path) -> list[tuple[str, int, int]]:
    """The names, sizes and times (ns) of a file or of the files in a folder, to notice that one was replaced.

    Raises:
      OSError: it cannot be opened.
    """
    files = [path]
    if path.is_dir():  # results may lie in it
        files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    return [(file.name, (found := file.stat()).st_size, found.st_mtime_ns) for file in files]


def write_atomically(path: pathlib.Path, content: str | bytes) -> None:
    """Writes or replaces a file. Whatever happens, ``path`` has either its old or its complete new content.

    Args:
      path: the file, in a folder that exists. If it is a link, the link stays and the file it leads to is written.
      content: bytes, or text to write as UTF-8.

    Raises:
      OSError: it cannot be written; the error names ``path``.
    """
    target = pathlib.Path(os.path.realpath(path))
    # A random name, because process numbers are often equal on two machines or in two containers.
    partial = hidden(target, f"{secrets.token_hex(4)}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextlib.contextmanager
def locked(path: pathlib.Path, shared: bool = False) -> Iterator[None]:
    """Keeps out other programs that lock the same file or folder, until the block or this process ends.

    What is locked is a file ``.NAME.lock`` next to ``path``. It says who holds the lock, and is removed at the end, and
    so is its folder if it is new and still empty. If the disk cannot lock, a warning says so and the block runs without
    a lock.

    Args:
      path: a file or folder, which need not exist.
      shared: whether others may hold the lock too if they also share it.

    Raises:
      UserError: in_use if another program holds the lock; bad_path if ``path`` is an address.
    """
    check_mounted(path)
    lock = _lock_of(path)
    new = [folder for folder in lock.parents if not folder.exists()]
    try:
        held = _acquire(lock, path, shared)
    except OSError as error:
        if error.errno not in _CANNOT_LOCK:
            raise
        sys.stderr.write(f"warning: {path} cannot be locked ({error.strerror}); let only one program write to it\n")
        held = None
    try:
        yield
    finally:
        if held is not None:
            with contextlib.suppress(BlockingIOError):
                if shared:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails if others hold it, who still need the file
                lock.unlink(missing_ok=True)
            os.close(held)
        with contextlib.suppress(OSError):  # one of them is not empty
            for folder in new:
                folder.rmdir()


def locked_by(path: pathlib.Path) -> str:
    """The program that holds the lock on ``path``; "" if none does, or if the disk cannot lock."""
    with contextlib.suppress(OSError):
        file = os.open(_lock_of(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _named_in(file)
        finally:
            os.close(file)
    return ""


def _lock_of(path: pathlib.Path) -> pathlib.Path:
    target = pathlib.Path(os.path.realpath(path.expanduser()))
    return hidden(target, "lock")


def _named_in(lock: int) -> str:
    """The holder that an open lock file names."""
    return os.read(lock, 300).decode(errors="replace") or "another program"


def _acquire(lock: pathlib.Path, path: pathlib.Path, shared: bool) -> int:
    """Opens and locks the file ``lock``, and returns its descriptor. ``path`` is for the error message."""
    if fcntl is None:
        raise OSError(errno.ENOSYS, "this system has no file locks")
    while True:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file), lock.stat()):
                now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
                os.ftruncate(file, 0)
                os.write(file, f"process {os.getpid()} on {socket.gethostname()} since {now}".encode())
                with contextlib.suppress(OSError):
                    os.fchmod(file, 0o666)  # so that other users can lock it after a crash of ours
                return file
        except FileNotFoundError:
            pass  # its last holder removed it after we opened it, and others may have created it again: try again
        except BlockingIOError as error:
            holder = _named_in(file)
            os.close(file)
            raise UserError("in_use", f"{path} is in use by {holder}; wait until it ends") from error
        except BaseException:
            os.close(file)
            raise
        os.close(file)
