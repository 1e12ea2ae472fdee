"""The checkpoint kinds: one module for each published kind, with its names, its marks and its container.

To add a kind, write its module and add it to ``KINDS``; see docs/extending.md.
"""

from collections.abc import Iterable

from ml_collections import ConfigDict

from convert_weights.kinds import former_dfer, skateformer, tramp_former
from convert_weights.kinds.kind import Kind
from convert_weights.layouts import TensorPair

# A whole model comes before its parts, because it also has their marks.
KINDS = {kind.name: kind for kind in (tramp_former.KIND, former_dfer.KIND, skateformer.KIND)}


def recognise(names: Iterable[str]) -> Kind | None:
    """The first kind with a mark at the start of one of ``names`` (without ``module.``), or None."""
    names = list(names)
    return next((kind for kind in KINDS.values() if any(name.startswith(kind.marks) for name in names)), None)


def name_map(config: ConfigDict) -> list[TensorPair]:
    """All tensors of the model that ``config`` (the ``model`` group) describes, under the released code's names.

    Raises:
      UserError: the model was never released.
    """
    return KINDS[config.name].name_map(config)
