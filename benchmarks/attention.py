"""Attention over the sets of the trajectory encoder: the model's own, and the alternatives that it replaced.

    python -m benchmarks.attention [--precision bfloat16] [--batch 8] [--config FILE]

Measures each type of attention at the first stage, forward and training, in both forms: sets one by one, as on CPUs,
and batched, as on other devices. The alternatives are measured in the form that the device uses. They replace pieces of
``tramp_jax.models.skateformer`` during tracing; the model has no options for them.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat

from benchmarks import costs, parts, timing
from tramp_jax.models import skateformer


def _batched() -> Any:
    """All sets at once, as on devices other than CPUs."""
    return mock.patch.object(jax, "default_backend", return_value="batched")


def _one_by_one() -> Any:
    """Sets one by one, as on CPUs."""
    return mock.patch.object(jax, "default_backend", return_value="cpu")


def _bias_in_every_set() -> Any:
    """The clips of a set share the bias, so its gradient is summed over them in every set."""

    def shared(x: jax.Array, pattern: str, b: int) -> jax.Array:
        return rearrange(x, "h n l m k -> h (n l) (m k)")

    return mock.patch.object(skateformer, "repeat", shared)


class _ProductBias(skateformer.RelativePositionBias):
    """The same bias, with rows picked by a product with ones and zeros."""

    @nn.compact
    def __call__(self) -> jax.Array:
        N, L, rows = self.partition.frames, self.partition.joints, self.partition.table_rows
        time = np.arange(N)
        picked = jax.nn.one_hot(time[:, None] - time[None, :] + N - 1, rows)
        if not self.partition.neighbours:
            table = self.param("table", nn.initializers.zeros, (rows, L, L, skateformer.HEADS_PER_PART))
            return jnp.einsum("nmr,rlkh->hnlmk", picked, table, precision="highest")
        table = self.param("table", nn.initializers.zeros, (rows, skateformer.HEADS_PER_PART))
        bias = jnp.einsum("nmr,rh->hnm", picked, table, precision="highest")
        if self.order == "time":
            return repeat(bias, "h n m -> h n l m k", l=L, k=L)
        return rearrange(jnp.tile(bias, (1, L, L)), "h (n l) (m k) -> h n l m k", n=N, m=N)


def _table_by_product() -> Any:
    """Rows of the table are picked by a product; the gradient of indexing would add them up one by one."""
    return mock.patch.object(skateformer, "RelativePositionBias", _ProductBias)


def _word_per_weight() -> Any:
    """Dropout draws 32 bits for each weight."""

    def dropout(weights: jax.Array, rate: float, key: jax.Array) -> jax.Array:
        return weights * jax.random.bernoulli(key, 1 - rate, weights.shape) / (1 - rate)

    return mock.patch.object(skateformer, "drop_weights", dropout)


FORMS = {"one by one": _one_by_one, "batched": _batched}
CHANGES: dict[str, tuple[Callable[[], Any], ...]] = {
    "bias gradient in every set": (_bias_in_every_set,),
    "a random word a weight": (_word_per_weight,),
    "both of these": (_bias_in_every_set, _word_per_weight),
    "table by a product": (_table_by_product,),
}


def ways(form: str) -> dict[str, tuple[Callable[[], Any], ...]]:
    """The changes of each way; ``form`` is the one that the device uses."""
    plain = {name: (change,) for name, change in FORMS.items()}
    return plain | {f"{form}, {name}": (FORMS[form], *changes) for name, changes in CHANGES.items()}


def _traced_under(changes: Sequence[Callable[[], Any]], part: parts.Part) -> tuple[Any, Any]:
    """The part's forward pass and training, compiled under the changes."""
    with contextlib.ExitStack() as stack:
        for change in changes:
            stack.enter_context(change())
        calls = costs.calls_of(part)
        jax.block_until_ready([call() for call in calls])
    return calls


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the arguments, measures, and writes the report."""
    flags = timing.parser(__doc__, rounds=5)
    timing.add_precision(flags)
    flags.add_argument("--batch", type=int, default=8)
    options = flags.parse_args(arguments)
    config = timing.recipe(options.config).model
    config.precision = options.precision
    form = "one by one" if jax.default_backend() == "cpu" else "batched"
    report = timing.Report("attention", arguments, options.out, [options.precision])
    for part in parts.trajectory_parts(config, options.batch):
        if part.stage or "attention" not in part.kind:
            continue
        calls = {name: _traced_under(changes, part) for name, changes in ways(form).items()}
        measured = {}
        tokens = part.module.partition.frames * part.module.partition.joints  # type: ignore[attr-defined]
        lines = [f"{options.batch} clips, {options.precision}, sets of {tokens} tokens, first stage.", ""]
        for i, what in enumerate(("forward", "training")):
            # Without dropout and gradients, only the two forms differ.
            chosen = {name: pair[i] for name, pair in calls.items() if i or name in FORMS}
            measured[what] = seconds = timing.take_turns_repeated(chosen, options.rounds)
            lines += [f"{what}:", "", *timing.comparison(seconds, form), ""]
        report.add(part.kind, lines[:-1], batch=options.batch, seconds=measured)


if __name__ == "__main__":
    main()
