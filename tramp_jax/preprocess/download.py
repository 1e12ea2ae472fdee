"""Downloads one file with a time limit and a progress bar. A failed download leaves nothing behind."""

import os
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from http.client import HTTPException
from pathlib import Path

import tqdm

from tramp_jax.errors import UserError

TIMEOUT = 30.0  # seconds without a byte
_CHUNK = 1 << 20


def fetch(address: str, target: Path, timeout: float = TIMEOUT) -> None:
    """Downloads ``address`` to ``target``, which appears only once it is complete.

    Args:
      address: an https address; plain http only from this machine.
      target: the file to write; its folder is created.
      timeout: seconds to wait for the server at each step.

    Raises:
      UserError: bad_path for another kind of address; download_failed if the server cannot be reached or refuses, the
        download is cut off, or the file cannot be written.
    """
    parts = urllib.parse.urlsplit(address)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost")):
        raise UserError("bad_path", f"{address}: only https addresses are supported")
    partial = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(address, timeout=timeout) as answer:  # noqa: S310  (the scheme is checked above)
            expected = int(answer.headers.get("Content-Length") or 0)
            handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent)
            partial = Path(name)
            received = 0
            with (
                os.fdopen(handle, "wb") as file,
                tqdm.tqdm(total=expected or None, unit="B", unit_scale=True, desc=target.name, disable=None) as bar,
            ):
                while chunk := answer.read(_CHUNK):
                    file.write(chunk)
                    received += len(chunk)
                    bar.update(len(chunk))
        if expected and received != expected:
            raise UserError(
                "download_failed", f"{address}: the download stopped after {received} of {expected} bytes; try again"
            )
        os.replace(partial, target)
    except (urllib.error.URLError, HTTPException, OSError, ValueError) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        reason = getattr(error, "reason", None) or error
        raise UserError(
            "download_failed", f"{address}: the download failed ({reason}); download it yourself and put it at {target}"
        ) from error
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)
