"""Downloads one file with a time limit, a progress bar and a checksum. A failed download leaves nothing behind."""

import hashlib
import os
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from http.client import HTTPException
from pathlib import Path

import tqdm

from tramp_jax.preprocess.faces import SourceError

TIMEOUT = 30.0  # seconds without a byte
_CHUNK = 1 << 20


def fetch(address: str, target: Path, sha256: str | None = None, timeout: float = TIMEOUT) -> None:
    """Downloads ``address`` to ``target``, which appears only once it is complete and checked.

    Args:
      address: an https address; plain http only from this machine.
      target: the file to write; its folder is created.
      sha256: expected checksum in hex; None checks only the length.
      timeout: seconds to wait for the server at each step.

    Raises:
      SourceError: the server cannot be reached or refuses, the download is cut off or has the wrong checksum, or the
        file cannot be written.
    """
    parts = urllib.parse.urlsplit(address)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost")):
        raise SourceError(f"{address}: only https addresses are supported")
    by_hand = f"download it yourself and put it at {target}"
    partial = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(address, timeout=timeout) as answer:  # noqa: S310  (the scheme is checked above)
            expected = int(answer.headers.get("Content-Length") or 0)
            handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent)
            partial = Path(name)
            checksum, received = hashlib.sha256(), 0
            with (
                os.fdopen(handle, "wb") as file,
                tqdm.tqdm(total=expected or None, unit="B", unit_scale=True, desc=target.name, disable=None) as bar,
            ):
                while chunk := answer.read(_CHUNK):
                    file.write(chunk)
                    checksum.update(chunk)
                    received += len(chunk)
                    bar.update(len(chunk))
        if expected and received != expected:
            raise SourceError(f"{address}: the download stopped after {received} of {expected} bytes; try again")
        if sha256 is not None and checksum.hexdigest() != sha256:
            raise SourceError(
                f"{address}: has checksum {checksum.hexdigest()}, expected {sha256}, so it is not used; try again, or "
                f"{by_hand}"
            )
        os.replace(partial, target)
        partial = None
    except (urllib.error.URLError, HTTPException, OSError, ValueError) as error:
        if isinstance(error, SourceError):
            raise
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        reason = getattr(error, "reason", None) or error
        raise SourceError(f"{address}: the download failed ({reason}); {by_hand}") from error
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)
