from __future__ import annotations

import numpy as np
from scipy import special, stats

from pavi.dist.special import log1mexp, log_erfcx, log_ndtr, log_sigmoid, logit, normal_hazard


def test_log_ndtr_is_accurate_in_both_tails() -> None:
    x = np.concatenate([np.linspace(-38, 38, 2001), [-1e4, -1e3, -1e-8, 0.0, 1e-8]])
    x = x[np.abs(special.log_ndtr(x)) > 1e-290]
    np.testing.assert_allclose(log_ndtr(x), special.log_ndtr(x), rtol=1e-12)


def test_log_erfcx() -> None:
    z = np.concatenate([np.linspace(0, 10, 501), np.geomspace(10, 1e12, 101)])
    np.testing.assert_allclose(log_erfcx(z), np.log(special.erfcx(z)), rtol=1e-12, atol=1e-13)


def test_the_hazard_grows_like_its_argument() -> None:
    z = np.linspace(-8, 30, 401)
    expected = np.exp(stats.norm.logpdf(z) - stats.norm.logsf(z))
    np.testing.assert_allclose(normal_hazard(z), expected, rtol=1e-11)


def test_log1mexp_at_both_ends() -> None:
    x = np.geomspace(1e-12, 700, 301)
    expected = np.where(x < 1, np.log(-np.expm1(-x)), np.log1p(-np.exp(-x)))
    np.testing.assert_allclose(log1mexp(x), expected, rtol=1e-12)


def test_logit_and_log_sigmoid_are_those_of_scipy() -> None:
    p = np.linspace(0.001, 0.999, 101)
    np.testing.assert_allclose(logit(p), special.logit(p), rtol=1e-12, atol=1e-14)
    x = np.linspace(-700, 700, 301)
    np.testing.assert_allclose(log_sigmoid(x), special.log_expit(x), rtol=1e-12)
