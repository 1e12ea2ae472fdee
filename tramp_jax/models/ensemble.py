"""Several models of one kind, trained side by side from different initial weights. The score is the mean of theirs."""

import flax.linen as nn
import jax.numpy as jnp

from tramp_jax.models.layers import Array
from tramp_jax.models.tramp_former import Outputs, TrampFormer


class Ensemble(nn.Module):
    """Models that read the same trajectories. They differ in their initial weights and in their dropout.

    Attributes:
      model: one member; it reads no frames. All parameters have a leading axis of ``members``.
      members: number of models.
    """

    model: TrampFormer
    members: int

    @nn.compact
    def __call__(
        self,
        frames: Array | None,
        trajectories: Array,
        index_t: Array,
        train: bool = False,
        frame_index: Array | None = None,
        frame_features: Array | None = None,
    ) -> tuple[Array, Outputs]:
        """See ``TrampFormer``. In training, scores are (B, members), so that each member has its own loss."""

        def score(model: TrampFormer, trajectories: Array, index_t: Array) -> Array:
            return model(None, trajectories, index_t, train)[0]

        score_all = nn.vmap(
            score,
            variable_axes={"params": 0, "batch_stats": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=None,
            out_axes=1,
            axis_size=self.members,
        )
        scores = score_all(self.model, trajectories, index_t)
        return (scores if train else jnp.mean(scores, axis=1)), {}
