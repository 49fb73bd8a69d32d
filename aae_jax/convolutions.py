"""Convolutions of 4 × 4 and stride 2, and their transposes, with gradients that are fast in a loop.

Inside a loop, such as that of `train_steps`, XLA's CPU compiler has fast convolutions only for the
layouts [B, H, W, C] and [h, w, C, D]. JAX's own gradients use other layouts, which make a step 40
times slower (jax-ml/jax#12868). On a CPU, the gradients here are transposed to the fast layouts.
Elsewhere they are JAX's own.
"""

import jax
import jax.numpy as jnp

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def _convolve(x, kernel, padding, stride=1, spread=1, kernel_spread=1):
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), [(padding, padding)] * 2, (spread, spread),
        (kernel_spread, kernel_spread), _LAYOUT,
    )  # fmt: skip


def _turned(kernel):
    """The gradient's kernel: turned by 180 degrees, inputs and outputs exchanged."""
    return jnp.flip(kernel, (0, 1)).swapaxes(2, 3)


def _correlate(wide, narrow):
    """Sums over batch and positions: [B, 2H, 2W, C] and [B, H, W, D] → [C, 4, 4, D]."""
    return _convolve(wide.transpose(3, 1, 2, 0), narrow.transpose(1, 2, 0, 3), 1, kernel_spread=2)


def halve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution f[B, H, W, C], f[4, 4, C, D] → f[B, H/2, W/2, D]; H and W are even."""
    return _halve_on_cpu(x, kernel) if _on_cpu() else _halve(x, kernel)


def double(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The transpose, `jax.lax.conv_transpose`: f[B, H, W, C], f[4, 4, C, D] → f[B, 2H, 2W, D]."""
    return _double_on_cpu(x, kernel) if _on_cpu() else _double(x, kernel)


def _on_cpu():
    return jax.default_backend() == "cpu"


def _halve(x, kernel):
    return _convolve(x, kernel, 1, stride=2)


def _double(x, kernel):
    return _convolve(x, kernel, 2, spread=2)


def _halve_backward(saved, gradient):
    x, kernel = saved
    return (
        _convolve(gradient, _turned(kernel), 2, spread=2),
        _correlate(x, gradient).transpose(1, 2, 0, 3),
    )


def _double_backward(saved, gradient):
    x, kernel = saved
    return (
        _convolve(gradient, _turned(kernel), 1, stride=2),
        jnp.flip(_correlate(gradient, x).transpose(1, 2, 3, 0), (0, 1)),
    )


_halve_on_cpu, _double_on_cpu = jax.custom_vjp(_halve), jax.custom_vjp(_double)
_halve_on_cpu.defvjp(lambda x, kernel: (_halve(x, kernel), (x, kernel)), _halve_backward)
_double_on_cpu.defvjp(lambda x, kernel: (_double(x, kernel), (x, kernel)), _double_backward)
