"""Writes files whole or not at all."""

import contextlib
import os
import pathlib


def write_atomically(path: pathlib.Path, content: str | bytes) -> None:
    """Writes a file, or replaces it. Whatever happens meanwhile, ``path`` has its old content or all of the new.

    Args:
      path: the file, in a folder that exists.
      content: bytes, or text that is written as UTF-8.

    Raises:
      OSError: it cannot be written; the error names ``path``.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from error
