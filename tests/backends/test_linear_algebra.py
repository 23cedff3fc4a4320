"""A pool of threads that waits for itself: what jaxlib's LAPACK calls do with a batch."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pavi import dist, ops
from pavi.ops.unrolled import LARGEST


def batched_lapack(function: Callable[..., Any], *arguments: Any) -> list[str]:
    """Calls of LAPACK on more than one matrix in a function's program and in its gradient."""
    jax = pytest.importorskip("jax")
    total = jax.grad(lambda *given: function(*given).sum())
    text = str(jax.make_jaxpr(total)(*arguments))
    assert re.search(r"= (cholesky|triangular_solve)", text)
    return re.findall(r":f32\[\d+,\d+,[^]]*\] = (?:cholesky|triangular_solve)", text)


def test_no_batch_of_matrices_goes_to_lapack_which_would_wait_in_the_pool_it_waits_for() -> None:
    size = LARGEST + 1
    matrices = np.eye(size, dtype=np.float32) + np.zeros((4, 3, 1, 1), np.float32)
    vectors = np.ones((4, 3, size), np.float32)
    assert not batched_lapack(lambda a: ops.cholesky(a), matrices)
    for transpose in (False, True):
        assert not batched_lapack(
            lambda b, transpose=transpose: ops.solve_triangular(
                ops.asarray(matrices, like=b), b[..., None], transpose=transpose
            ),
            vectors,
        )
    pytest.importorskip("numpyro")
    from pavi.backends.numpyro.distributions import log_prob

    spec = dist.MultivariateNormal(vectors, matrices)
    assert not batched_lapack(lambda value: log_prob(spec, value), 0.5 * vectors)
