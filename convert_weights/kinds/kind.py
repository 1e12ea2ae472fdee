"""What the checkpoint kinds share: their type, and tools to read an architecture off the shapes of a state dict.

An option that shapes do not reveal gets its published value and is listed as assumed. The same goes for an option whose
shape makes no sense: nothing here raises an error, and the conversion later fails on the tensors that do not fit.
"""

import dataclasses
import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from convert_weights.layouts import TensorPair, linear
from tramp_jax import config as defaults
from tramp_jax.errors import UserError

Shape = tuple[int, ...]
MAX_COUNT = 64  # stages, blocks, layers, frames or joints in a set: no model of a known kind has more


def model_config(values: Mapping[str, Any]) -> ConfigDict:
    """The published ``model`` group, updated with ``values`` (as read from JSON)."""
    config = defaults.base().model.copy_and_resolve_references()
    config.update(values)
    return config


class Architecture:
    """The ``model`` group of the model called ``name``, and where each value comes from.

    Attributes:
      config: the group; options keep their published values until set.
      read: options read off names and shapes, by dotted name.
      assumed: options that shapes do not reveal, each with its value and a reason.
    """

    def __init__(self, name: str):
        self.config = model_config({"name": name})
        self.read: dict[str, Any] = {}
        self.assumed: dict[str, str] = {}

    def set(self, option: str, value: Any) -> None:
        """Sets a value read off the tensors. None keeps the published value and lists it as assumed."""
        if value is None:
            published = operator.attrgetter(option)(self.config)
            self.assume(option, published, "its tensors are missing or malformed")
            return
        self._put(option, value)
        self.read[option] = value

    def assume(self, option: str, value: Any, why: str) -> None:
        """Sets a value that shapes do not reveal."""
        self._put(option, value)
        self.assumed[option] = f"{value}: {why}"

    def _put(self, option: str, value: Any) -> None:
        group, _, key = option.rpartition(".")
        (self.config[group] if group else self.config)[key] = value

    def set_count(self, option: str, count: int) -> None:
        """Sets the number of stages, blocks or layers, if it is plausible."""
        self.set(option, count if 0 < count <= MAX_COUNT else None)

    def set_ratio(self, option: str, hidden: int | None, width: int | None) -> None:
        """Sets the ratio of an MLP's hidden width to its width."""
        self.set(option, hidden // width if hidden and width and hidden >= width else None)

    def set_head(self, hidden: tuple[int, ...] | None, outputs: int | None) -> None:
        """Sets the head's hidden widths and outputs: one output is a score, several are classes."""
        self.set("head.hidden", hidden)
        self.set("head.num_classes", 0 if outputs == 1 else outputs)

    def assume_heads(self, option: str, width: int) -> None:
        """Sets the published number of attention heads (8), or its largest divisor that ``width`` allows."""
        self.assume(option, math.gcd(8, width), "heads leave no trace in shapes; published with 8")


class Tensors:
    """Shapes of the tensors whose names begin with ``prefix``, by the rest of the name."""

    def __init__(self, shapes: Mapping[str, Shape], prefix: str = ""):
        self.shapes = {n.removeprefix(prefix): s for n, s in shapes.items() if n.startswith(prefix)}

    def size(self, *names: str, axis: int = 0, rank: int = 1) -> int | None:
        """Size along ``axis`` of the first of ``names`` with this rank; None if there is none or its size is 0."""
        for name in names:
            if len(self.shapes.get(name, ())) == rank:
                return self.shapes[name][axis] or None
        return None

    def count(self, prefix: str) -> int:
        """How many of prefix0., prefix1., … exist without a gap."""
        pattern = re.compile(re.escape(prefix) + r"(\d{1,4})\.")
        found = {int(match[1]) for match in map(pattern.match, self.shapes) if match}
        return next(n for n in range(len(found) + 1) if n not in found)


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of PyTorch checkpoint: a model as one publisher names and packs its tensors."""

    name: str  # as given to ``--kind``
    marks: tuple[str, ...]  # prefixes; a state dict is of this kind if any of its names begins with one of them
    # (shapes of the tensors by released name, T or None) -> the architecture
    read: Callable[[Mapping[str, Shape], int | None], Architecture]
    # ``model`` group -> all tensors of that model. The map is complete by construction, so anything left over on either
    # side is an error. Raises UserError if the model was never released.
    name_map: Callable[[ConfigDict], list[TensorPair]]
    # Key of the file under which the released code keeps the state dict; "" if the file is the state dict.
    container: str = ""
    # Finds the prefixes that a file uses for the encoder and the head, from the first parts of its names. Needed if the
    # model was also released inside a larger one. See ``state_dict.released_name``.
    naming: Callable[[set[str]], dict[str, str]] = lambda _: {"encoder": "", "head": ""}


def linear_head(source: str, config: ConfigDict) -> list[TensorPair]:
    """The head of an encoder, one linear layer."""
    if config.head.hidden:
        raise UserError(
            "no_counterpart",
            f"model.head.hidden is {tuple(config.head.hidden)}, but {config.name} was released with a linear head; "
            "only a model with model.head.hidden=() has a PyTorch counterpart",
        )
    return linear(source, ("head", "layer1"))
