"""Replaces names of people and files in tables and reports with salted hashes (``tramp-jax score --anonymise``).

Anyone with the salt can test whether a name belongs to a pseudonym, so keep the salt to yourself.
"""

import contextlib
import dataclasses
import functools
import hmac
import os
import re
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tramp_jax.data.clips import ClipInfo
from tramp_jax.errors import UserError

if TYPE_CHECKING:
    from tramp_jax.report.record import Evidence

_SALT_BYTES = 32
_HIDDEN = "hidden"


class Pseudonyms:
    """Makes pseudonyms from the salt in a file.

    If the file does not exist, it is created only by ``create`` or for the first pseudonym, so a refused command leaves
    none. Equal salts give equal pseudonyms. All pseudonyms from one salt begin with ``prefix``.

    Args:
      path: the file with the salt, readable only by its owner.
      runs: folders of the models, which may also contain names.

    Attributes:
      new: whether the file did not exist.

    Raises:
      UserError: damaged_file if the file is not a salt; no_permission if others can read it.
    """

    def __init__(self, path: Path, runs: Sequence[Path] = ()):
        self._path, self.new = path, not path.exists()
        if not self.new:
            self._read()
        self._folders = {str(spelt): "RUN" for run in runs for spelt in (run, run.expanduser(), run.resolve())}

    def create(self) -> None:
        """Creates the file with a new salt, unless it exists."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        only_us = functools.partial(os.open, mode=0o600)
        with contextlib.suppress(FileExistsError), open(self._path, "x", opener=only_us) as file:
            file.write(secrets.token_hex(_SALT_BYTES) + "\n")

    @functools.cached_property
    def _salt(self) -> bytes:
        self.create()
        return self._read()

    @functools.cached_property
    def prefix(self) -> str:
        return f"anon-{self.digest('salt')[:4]}-"

    def _read(self) -> bytes:
        path, waits = self._path, 0
        while path.is_file() and path.stat().st_size == 0 and waits < 10:  # another job may be writing it
            time.sleep(0.1)
            waits += 1
        text = path.read_bytes().strip() if path.is_file() and path.stat().st_size <= 4 * _SALT_BYTES else b""
        if not re.fullmatch(rb"[0-9a-f]{%d}" % (2 * _SALT_BYTES), text):
            raise UserError("damaged_file", f"{path}: not a salt of tramp-jax; name another file with --salt")
        if os.name == "posix" and path.stat().st_mode & 0o077:
            raise UserError("no_permission", f"{path}: other users can read this salt; run chmod 600 {path}")
        return bytes.fromhex(text.decode())

    def digest(self, text: str) -> str:
        """Salted hash of a text, 12 hex digits."""
        return hmac.new(self._salt, text.encode(errors="surrogateescape"), "sha256").hexdigest()[:12]

    def of(self, name: str) -> str:
        """The pseudonym of a person, or of a file's real path."""
        return self.prefix + self.digest(name)

    def of_input(self, path: str | Path) -> str:
        """The pseudonym of an input, the same for all spellings of its path."""
        return self.of(os.path.realpath(path))

    def hide(self, text: str, path: str, info: ClipInfo | None = None) -> str:
        """Replaces the names of an input, its clip and person, and the models' folders in a text.

        A name inside a longer word stays.
        """
        own = self.of_input(path)
        names = dict.fromkeys(_spellings(path), own) | self._folders
        if info is not None:
            names |= dict.fromkeys([*_spellings(info.source), info.id], own) | {info.subject: self.person(info)}
        for name in sorted(filter(None, names), key=len, reverse=True):
            text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", names[name], text)
        return re.sub(rf"({self.prefix}\w+)[/\\][^\s:;,]+", r"\1", text)  # files in the folder of an input

    def person(self, info: ClipInfo) -> str:
        """The pseudonym of the person in a clip; "" if the person has no name."""
        return self.of(f"subject {info.subject}") if info.subject else ""


def _spellings(path: str) -> set[str]:
    """The ways in which a message may name a path: the path, its folder, and its file name with or without ending."""
    if not path:
        return set()
    paths = {Path(path), Path(path).expanduser(), Path(path).absolute(), Path(os.path.realpath(path))}
    folders = {str(each.parent) for each in paths if each.is_absolute() and len(each.parts) > 2}
    return folders | {name for each in paths for name in (str(each), each.name, each.stem)}


def anonymous(evidence: "Evidence", path: str, pseudonyms: Pseudonyms) -> "Evidence":
    """Removes names from the contents of a report. Pictures of the face stay."""
    info, own = evidence.clip.info, pseudonyms.of_input(path)
    new = dataclasses.replace(info, id=own, subject=pseudonyms.person(info), group="", source="")
    return dataclasses.replace(
        evidence,
        clip=dataclasses.replace(evidence.clip, info=new),
        warnings=[pseudonyms.hide(text, path, info) for text in evidence.warnings],
        interval_note=pseudonyms.hide(evidence.interval_note, path, info),
        provenance={**evidence.provenance, "file": own, "sha256": _HIDDEN, "checkpoint": _HIDDEN},
    )
