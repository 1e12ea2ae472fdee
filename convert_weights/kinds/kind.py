"""The type of a checkpoint kind."""

import dataclasses
from collections.abc import Callable, Mapping

from ml_collections import ConfigDict

from convert_weights.architecture import Architecture, Shape
from convert_weights.layouts import TensorPair, linear
from tramp_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of PyTorch checkpoint: a model as one publisher names and packs its tensors.

    Attributes:
      name: as given to ``--kind``.
      marks: a state dict is of this kind if one of its names begins with one of these.
      read: (shapes of the tensors by released name, T or None) -> the architecture.
      name_map: ``model`` group -> all tensors of that model. It is computed, so it is complete by construction, and
        whatever is left over on either side is an error. Raises UserError if the model was never released.
      container: key of the file under which the released code keeps the state dict; "" if the file is the state dict.
      naming: first parts of the names in a file -> the file's prefixes for the encoder and the head, where the same
        model was also released as part of another one. See ``state_dict.released_name``.
    """

    name: str
    marks: tuple[str, ...]
    read: Callable[[Mapping[str, Shape], int | None], Architecture]
    name_map: Callable[[ConfigDict], list[TensorPair]]
    container: str = ""
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
