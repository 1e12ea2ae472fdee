"""What a reader returns: clips by number, their published split, and what is known about all of them."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

from tramp_jax.data.clip_checks import clip_problems
from tramp_jax.data.clips import Clip, ClipInfo
from tramp_jax.data.problems import DataError, Problem, Problems, counted


@dataclasses.dataclass(frozen=True)
class Wanted:
    """The parts of a clip to read."""

    frames: bool = True  # the images
    pixels: bool = True  # the colours under the landmarks
    landmarks: bool = True  # without them, they are NaN, colours are not read either, and the data may lack both

    @property
    def colours(self) -> bool:
        """Whether ``pixels`` are read, which lie under the landmarks."""
        return self.pixels and self.landmarks


class ClipSource:
    """Clips by number. A subclass sets ``infos`` without reading the clips, and defines ``__getitem__``."""

    infos: Sequence[ClipInfo]
    _with_landmarks = True  # False in a source whose landmarks are not wanted, so that all are NaN

    def __len__(self) -> int:
        return len(self.infos)

    def __getitem__(self, index: int) -> Clip:
        """Reads clip ``index``. The first problem with its files is raised as a ``DataError``."""
        raise NotImplementedError

    def check(self, index: int) -> tuple[list[Problem], Clip | None]:
        """Lists everything wrong with the files of clip ``index``; decodes its images.

        Returns:
          The problems, and as much of the clip as can be read: None if its landmarks cannot be used.
        """
        try:
            clip = self[index]
        except DataError as error:
            return [error.problem], None
        return list(clip_problems(clip, self._with_landmarks)), clip

    def store_problems(self) -> Iterator[Problem]:
        """Yields what is wrong with files that hold many clips; reads all of them."""
        return iter(())


class FileSource(ClipSource):
    """Clips that each have their own files, which ``read(info, problems)`` reads.

    With a collector, ``read`` also decodes all images to check them, and returns None if the landmarks cannot be used.
    """

    def __init__(self, infos: Sequence[ClipInfo], read: Callable[[ClipInfo, Problems], Clip | None]):
        self.infos = infos
        self._read = read

    def __getitem__(self, index: int) -> Clip:
        clip = self._read(self.infos[index], Problems())
        assert clip is not None
        return clip

    def check(self, index: int) -> tuple[list[Problem], Clip | None]:
        problems = Problems(collect=True)
        clip = self._read(self.infos[index], problems)
        return problems.found, clip


class Split(ClipSource):
    """A part of a source: the clips at ``indices``, with other ``infos`` if given."""

    def __init__(self, source: ClipSource, indices: Sequence[int], infos: Sequence[ClipInfo] | None = None):
        self.source = source
        self.indices = indices
        self.infos = [source.infos[i] for i in indices] if infos is None else infos

    def __getitem__(self, index: int) -> Clip:
        return dataclasses.replace(self.source[self.indices[index]], info=self.infos[index])

    def check(self, index: int) -> tuple[list[Problem], Clip | None]:
        problems, clip = self.source.check(self.indices[index])
        return problems, clip and dataclasses.replace(clip, info=self.infos[index])

    def store_problems(self) -> Iterator[Problem]:
        return self.source.store_problems()


@dataclasses.dataclass(frozen=True)
class RatingScale:
    """The scale of a score, and its ends in words. The defaults describe the paper's."""

    name: str = "MDS-UPDRS"
    low: float = 0.0
    high: float = 4.0
    low_means: str = "normal"
    high_means: str = "severe"


@dataclasses.dataclass(frozen=True)
class Facts:
    """What holds for every clip of a data set."""

    scale: RatingScale | None = None  # of the scores; None if it is unnamed, so its ends come from the scores
    landmark_source: str = ""  # the detector that found the landmarks, such as "insightface"; "" if unknown
    layouts: tuple[str, ...] = ()  # possible landmark layouts, keys of ``landmarks.LAYOUTS``; () for any
    fps: float = 0.0  # frames per second; 0 if it differs between clips
    caveat: str = ""  # a warning to attach to every score of a model trained on this data; "" for none


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The clips of a data set, and the published split over subjects if there is one."""

    source: ClipSource
    facts: Facts = Facts()
    official: Mapping[str, frozenset[str]] | None = None  # {"train": subjects, "test": subjects}
    folds: Sequence[frozenset[str]] = ()  # test subjects of each published fold
    notes: tuple[Problem, ...] = ()  # the reader's warnings, such as clips that it skipped

    def summary(self) -> str:
        """One line with the number of notes by kind; "" if there are none."""
        return counted(self.notes, {info.id for info in self.source.infos})
