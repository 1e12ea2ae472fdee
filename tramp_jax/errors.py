"""``UserError`` is for what a user can fix. Any other exception that escapes is a bug and keeps its traceback."""

import errno
import importlib.metadata
import os
import re


class UserError(Exception):
    """Bad input, a bad option or a missing file: something the user can fix. No ``except ValueError`` catches it.

    The command line prints its message as one line and exits with code 1.

    Attributes:
      kind: short, stable name such as "missing_file". Programs and tests rely on it, never on the message.
      message: names the file or option, and says what is wrong and how to fix it.
    """

    def __init__(self, kind: str, message: str):
        super().__init__(kind, message)  # both, so that the error survives pickling
        self.kind = kind
        self.message = message

    def __str__(self) -> str:
        return self.message


class Interrupted(RuntimeError):  # noqa: N818 - not an error: the user asked for it
    """Training stopped because the user asked for it; the message says how to continue."""


_NO_PERMISSION = ("no_permission", "permission denied; change the permissions or choose another place")
_LOST_DISK = (
    "lost_disk",
    "the disk or network share failed while this was read or written; check that it is still there",
)
_DISK_FULL = ("disk_full", "no space left; free some, raise your quota or choose another place")
_FIXABLE = {
    errno.ENOENT: ("missing_file", "no such file or folder; check the path"),
    errno.ENOTDIR: ("bad_path", "part of this path is a file, not a folder; check the path"),
    errno.EISDIR: ("bad_path", "this is a folder, not a file; name a file"),
    errno.ENAMETOOLONG: ("bad_path", "the name is too long; shorten it"),
    # Almost always raised where a folder was to be created.
    errno.EEXIST: ("file_exists", "already exists, and is not a folder; name another"),
    errno.ELOOP: ("bad_path", "a link here leads back to itself; correct it"),
    errno.EACCES: _NO_PERMISSION,
    errno.EPERM: _NO_PERMISSION,
    errno.EROFS: ("no_permission", "this disk is read-only; choose another place"),
    errno.ENOSPC: _DISK_FULL,
    errno.EDQUOT: _DISK_FULL,
    errno.EIO: _LOST_DISK,
    errno.ESTALE: _LOST_DISK,
    errno.ENOTCONN: _LOST_DISK,
    errno.ETIMEDOUT: _LOST_DISK,
}
_FULL = (errno.ENOSPC, errno.EDQUOT)


def _cure(package: str) -> str:
    """What to do if ``package`` needs a system library that is missing."""
    try:
        # InsightFace installs a second OpenCV of the same version, which needs desktop libraries. Ours does not.
        version = importlib.metadata.version("opencv-python") if package == "cv2" else ""
    except importlib.metadata.PackageNotFoundError:
        version = ""
    if not version:
        return f"{package} needs it: install it with your system's package manager"
    headless = f"opencv-python-headless=={version}"
    return f"InsightFace's own OpenCV needs it; replace that with: pip install --force-reinstall --no-deps {headless}"


def as_user_error(error: BaseException) -> UserError | None:
    """The ``UserError`` that says the same as an exception; None if the exception is a bug.

    Users can fix an ``OSError`` about a missing file, permissions or a disk, a library's own error about a full disk,
    and the ``ImportError`` of a package that lacks a system library.
    """
    if isinstance(error, UserError):
        return error
    if isinstance(error, ImportError) and (library := re.match(r"(?:\S*/)?(lib[^\s/]+\.so[\d.]*): ", str(error))):
        return UserError("missing_library", f"your system lacks {library[1]}; {_cure(error.name or '')}")
    if isinstance(error, OSError) and error.errno is not None:
        known = _FIXABLE.get(error.errno)
        if known is None or (error.filename is None and known != _DISK_FULL):
            return None
        kind, cure = known
        return UserError(kind, f"{error.filename or error.strerror}: {cure}")
    # Libraries in C++ raise errors without a number: TensorStore a ValueError, and ArrayRecord a RuntimeError.
    if isinstance(error, Exception) and any(os.strerror(number) in str(error) for number in _FULL):
        path = re.search(r'(?<=[" ])/[^";]+', str(error))
        return UserError(_DISK_FULL[0], f"{path[0] if path else type(error).__name__}: {_DISK_FULL[1]}")
    return None
