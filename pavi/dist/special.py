"""Special functions that the specs need and `ops` does not have, written on `ops`.

They are smooth, differentiable under either framework, and free of cancellation in the tails, so a
float32 run scores a far-away censored point as NumPy does in float64.
"""

from __future__ import annotations

import math

from pavi import ops
from pavi.dist.spec import Array

# Chebyshev coefficients of log(erfcx(z) / t) in 2t - 1, t = 2 / (2 + z), z >= 0 (error < 1e-14).
_LOG_ERFCX = (
    -0.651326859890855,
    0.6419697923564899,
    0.019476473204185746,
    -0.009561514786808617,
    -0.0009465953444821463,
    0.0003668394978528716,
    4.252332480693026e-05,
    -2.0278578112363622e-05,
    -1.624290004843309e-06,
    1.3036558354609393e-06,
    1.5626441614692222e-08,
    -8.523809595971607e-08,
    6.52905425773836e-09,
    5.059343551350061e-09,
    -9.913642286111658e-10,
    -2.2736522791744807e-10,
    9.646799405566963e-11,
    2.3939691433361906e-12,
    -6.8859900837612526e-12,
    8.940902630790061e-13,
    3.13165976067559e-13,
    -1.1278796374071869e-13,
)


def log_erfcx(z: Array) -> Array:
    """log(exp(z^2) erfc(z)) for z >= 0, elementwise."""
    t = 2.0 / (2.0 + z)
    y = 2.0 * (2.0 * t - 1.0)
    previous, current = 0.0 * t, 0.0 * t
    # Clenshaw: b_k = c_k + 2x b_{k+1} - b_{k+2}
    for coefficient in reversed(_LOG_ERFCX[1:]):
        previous, current = current, coefficient + y * current - previous
    return ops.log(t) + _LOG_ERFCX[0] + 0.5 * y * current - previous


def log_ndtr(x: Array) -> Array:
    """Log of the standard normal distribution function, elementwise, accurate in both tails."""
    # Not abs: its derivative at 0 is 0, and a bound that equals loc is common.
    z = ops.where(x > 0.0, x, -x) / math.sqrt(2.0)
    log_erfc = log_erfcx(z) - z * z
    return ops.where(x > 0.0, ops.log1p(-0.5 * ops.exp(log_erfc)), log_erfc - math.log(2.0))


def log_normal_density(z: Array) -> Array:
    """Log density of the standard normal, elementwise."""
    return -0.5 * z * z - 0.5 * math.log(2.0 * math.pi)


def normal_hazard(z: Array) -> Array:
    """phi(z) / (1 - Phi(z)), elementwise."""
    return ops.exp(log_normal_density(z) - log_ndtr(-z))


def log1mexp(x: Array) -> Array:
    """log(1 - exp(-x)) for x > 0, elementwise, accurate at both ends."""
    small = x < math.log(2.0)
    near = ops.where(small, x, 1.0)
    far = ops.where(small, 1.0, x)
    return ops.where(small, ops.log(-ops.expm1(-near)), ops.log1p(-ops.exp(-far)))


def logit(p: Array) -> Array:
    """log(p / (1 - p)), elementwise."""
    return ops.log(p) - ops.log1p(-p)


def log_sigmoid(x: Array) -> Array:
    """log(1 / (1 + exp(-x))), elementwise."""
    return -ops.softplus(-x)
