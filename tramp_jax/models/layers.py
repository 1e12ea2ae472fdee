"""Small layers shared by the encoders and the fusion.

``dtype`` is the type in which products are computed (``model.precision``). Parameters, statistics, normalisation and
softmax are always float32.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
Dtype = Any

# PyTorch's defaults, which the published weights were trained with (flax: 1e-6 and 0.99).
NORM_EPS = 1e-5
BATCH_NORM_MOMENTUM = 0.1

embedding_init = nn.initializers.truncated_normal(0.02)


def conv_init(key: Array, shape: tuple[int, ...], dtype: Dtype = jnp.float32) -> Array:
    """Kernels (height, width, in, out) with variance 2 / (height · width · out), as in PyTorch's ResNets."""
    height, width, _, out = shape
    return _normal(key, shape, dtype) * jnp.sqrt(jnp.float32(2 / (height * width * out)))


@functools.partial(jax.jit, static_argnums=(1, 2))
def _normal(key: Array, shape: tuple[int, ...], dtype: Dtype) -> Array:
    """Normal numbers. ``initial`` recognises a draw by the name of a jitted function, and JAX may rename its own."""
    return jax.random.normal(key, shape, dtype)


def layer_norm(name: str, dtype: Dtype) -> nn.LayerNorm:
    """LayerNorm over the last axis as in PyTorch: two-pass variance, eps 1e-5, float32 statistics."""
    return nn.LayerNorm(epsilon=NORM_EPS, use_fast_variance=False, dtype=dtype, name=name)


def exact_gelu(x: Array) -> Array:
    """GELU with erf, as in PyTorch. JAX's own uses erfc, which is slower."""
    return 0.5 * x * (1.0 + jax.lax.erf(x * 0.5**0.5))


def tanh_gelu(x: Array) -> Array:
    return nn.gelu(x, approximate=True)


@jax.custom_vjp
def max_pool(x: Array) -> Array:
    """Largest value in each 3×3 window, with stride 2: (B, H, W, C) -> (B, ⌈H / 2⌉, ⌈W / 2⌉, C).

    Its gradient is bit-identical to XLA's own, which takes three times as long on a CPU: the first of equal values in a
    window gets all of it, and the windows of a pixel are added in their order.
    """
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


def _max_pool_backward(x: Array, gradient: Array) -> tuple[Array]:
    (B, H, W, C), (_, h, w, _) = x.shape, gradient.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    places = list(np.ndindex(3, 3))
    # Not the place where x equals the result: XLA may recompute x here and round it differently.
    largest = jnp.full(gradient.shape, -jnp.inf, x.dtype)
    chosen = jnp.zeros(gradient.shape, jnp.int32)
    for number, (row, column) in enumerate(places):
        here = padded[:, row : row + 2 * h - 1 : 2, column : column + 2 * w - 1 : 2]
        chosen, largest = jnp.where(here > largest, number, chosen), jnp.maximum(here, largest)
    at = {place: jnp.where(chosen == number, gradient, 0) for number, place in enumerate(places)}

    def below(z: Array) -> Array:
        return jnp.pad(z[:, 1:], ((0, 0), (0, 1), (0, 0), (0, 0)))

    def right(z: Array) -> Array:
        return jnp.pad(z[:, :, 1:], ((0, 0), (0, 0), (0, 1), (0, 0)))

    # A pixel in an even row and column is the middle of one window; in odd ones, neighbouring windows share it.
    even = jnp.stack([at[1, 1], at[1, 2] + right(at[1, 0])], axis=3)
    corners = at[2, 2] + right(at[2, 0]) + below(at[0, 2]) + below(right(at[0, 0]))
    odd = jnp.stack([at[2, 1] + below(at[0, 1]), corners], axis=3)
    return (jnp.stack([even, odd], axis=2).reshape(B, 2 * h, 2 * w, C)[:, :H, :W],)


max_pool.defvjp(lambda x: (max_pool(x), x), _max_pool_backward)


def _xla_convolution(x: Array, kernel: Array, stride: int) -> Array:
    pads = [(size // 2, size // 2) for size in kernel.shape[:2]]
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


_convolution = jax.custom_vjp(_xla_convolution, nondiff_argnums=(2,))


def _convolution_backward(stride: int, inputs: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = inputs
    of_x, of_kernel = jax.vjp(functools.partial(_xla_convolution, stride=stride), x, kernel)[1](gradient)
    # With fewer rows or channels, XLA's own is as fast. What is not used is not computed.
    one_cpu = jax.default_backend() == "cpu" and jax.device_count() == 1  # several would add up after each row
    if one_cpu and gradient.shape[1] >= 28 and gradient.shape[3] >= 64:
        of_kernel = _kernel_gradient(x, kernel, stride, gradient)
    return of_x, of_kernel


def _kernel_gradient(x: Array, kernel: Array, stride: int, gradient: Array) -> Array:
    """The gradient of the kernel, summed over the rows of the output: each time a product of gradient and patches."""
    height, width, _, out = kernel.shape
    x = jnp.pad(x, ((0, 0), (height // 2, height // 2), (width // 2, width // 2), (0, 0)))
    span = (gradient.shape[2] - 1) * stride + 1

    def add_row(total: Array, row: Array) -> tuple[Array, None]:
        read = jax.lax.dynamic_slice_in_dim(x, row * stride, height, axis=1)
        patches = [read[:, i, j : j + span : stride] for i in range(height) for j in range(width)]
        here = jax.lax.dynamic_index_in_dim(gradient, row, axis=1, keepdims=False)
        product = jnp.einsum("bwo,bwk->ok", here, jnp.concatenate(patches, -1), preferred_element_type=jnp.float32)
        return total + product, None

    total, _ = jax.lax.scan(add_row, jnp.zeros((out, kernel.size // out)), jnp.arange(gradient.shape[1]))
    return total.T.reshape(kernel.shape).astype(kernel.dtype)


_convolution.defvjp(lambda x, kernel, stride: (_convolution(x, kernel, stride), (x, kernel)), _convolution_backward)


class Conv(nn.Module):
    """Square convolution without a bias, padded by half of its kernel: (B, H, W, C) -> (B, ⌈H / stride⌉, …, features).

    On a CPU, XLA's own gradient of the kernel takes up to three times as long as the one here.
    """

    features: int
    size: int
    stride: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", conv_init, (self.size, self.size, x.shape[-1], self.features))
        return _convolution(x.astype(self.dtype), kernel.astype(self.dtype), self.stride)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, with PyTorch's conventions.

    ``running <- (1 - momentum) * running + momentum * batch``. The batch is normalised by its biased variance, but the
    running variance is updated with the *unbiased* one. Under ``jit`` over a mesh, statistics are those of the global
    batch.
    """

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        C, dtype = x.shape[-1], x.dtype
        x = x.astype(jnp.float32)
        scale = self.param("scale", nn.initializers.ones, (C,))
        bias = self.param("bias", nn.initializers.zeros, (C,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (C,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (C,))
        if train:
            axes = tuple(range(x.ndim - 1))
            mean, var = jnp.mean(x, axes), jnp.var(x, axes)
            if not self.is_initializing():
                count = x.size // C
                unbiased = var * (count / max(count - 1, 1))
                running_mean.value += BATCH_NORM_MOMENTUM * (mean - running_mean.value)
                running_var.value += BATCH_NORM_MOMENTUM * (unbiased - running_var.value)
        else:
            mean, var = running_mean.value, running_var.value
        return ((x - mean) * (scale * jax.lax.rsqrt(var + NORM_EPS)) + bias).astype(dtype)


class Mlp(nn.Module):
    """Linear, activation, linear: (..., C) -> (..., C)."""

    hidden: int
    activation: Callable[[Array], Array] = exact_gelu
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        C = x.shape[-1]
        x = self.activation(nn.Dense(self.hidden, dtype=self.dtype, name="fc1")(x))
        return nn.Dense(C, dtype=self.dtype, name="fc2")(x)


class TemporalConv(nn.Module):
    """Convolution over time, the same for every joint: (B, T, V, C) -> (B, T / stride, V, features).

    With ``groups`` > 1, channels mix only within groups, as in PyTorch's grouped Conv2d of kernel (kernel, 1). It is
    computed as one matrix product over shifted copies of the input, because XLA is slow at gradients of grouped and
    strided convolutions on CPUs. The kernel's zeros cost little, because a group is only a few channels wide.
    """

    features: int
    kernel: int = 7
    stride: int = 1
    groups: int = 1
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        B, T, V, C = x.shape
        fan_in = C // self.groups
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (self.kernel, fan_in, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = (z.astype(self.dtype) for z in (x, kernel, bias))
        if self.groups > 1:
            kernel = _block_diagonal(kernel, self.groups)
        pad = self.kernel // 2
        x = jnp.pad(x, ((0, 0), (pad, pad), (0, 0), (0, 0)))
        stop = (T - 1) // self.stride * self.stride + 1
        shifted = [x[:, k : k + stop : self.stride] for k in range(self.kernel)]
        return jnp.concatenate(shifted, axis=-1) @ kernel.reshape(self.kernel * C, self.features) + bias


def _block_diagonal(kernel: Array, groups: int) -> Array:
    """Turns a grouped kernel (k, C / groups, features) into the equivalent dense one (k, C, features)."""
    k, fan_in, features = kernel.shape
    per_group = kernel.reshape(k, fan_in, groups, features // groups)
    dense = jnp.einsum("kigo,gh->khigo", per_group, jnp.eye(groups, dtype=kernel.dtype))
    return dense.reshape(k, groups * fan_in, features)
