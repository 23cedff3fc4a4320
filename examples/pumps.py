# %% [markdown]
# Failures of ten power-plant pumps: counts with exposure, Poisson and negative binomial.
#
#     python examples/pumps.py --backend numpyro --plot pumps.png
#
# Pump i ran for t_i thousand hours, from 1 to 126, and failed x_i times. Three models of it:
#
#     one rate            rate ~ Gamma(0.1, 0.1)              x_i ~ Poisson(rate t_i)
#     negative binomial   the same and c ~ Exponential(1)     x_i ~ NegativeBinomial(rate t_i, c)
#     a rate for each     alpha ~ Exponential(1)    beta ~ Gamma(0.1, 1)
#                         theta_i ~ Gamma(alpha, beta)        x_i ~ Poisson(theta_i t_i)
#
# The exposure is a covariate by which the mean is multiplied. The third is the model of George,
# Makov and Smith (1993), of which the means and standard deviations are known. Data and reference:
# `data/ATTRIBUTION.md`.
"""Pumps: counts with exposure; Poisson, negative binomial and a rate for each, compared by loo."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np

import pavi
from pavi import dist

FAILURES = np.array([5, 1, 5, 14, 3, 19, 1, 1, 4, 22])
THOUSAND_HOURS = np.array([94.3, 15.7, 62.9, 126.0, 5.24, 31.4, 1.05, 1.05, 2.1, 10.5])

# Of the third model: mean and standard deviation by long runs of NUTS.
REFERENCE = {
    "alpha": (0.69661, 0.26767),
    "beta": (0.93167, 0.54468),
    "theta": (
        [0.059515, 0.10243, 0.089785, 0.11555, 0.60214, 0.60949, 0.88987, 0.89483, 1.5802, 1.9872],
        [
            0.025305,
            0.080759,
            0.038029,
            0.029841,
            0.31603,
            0.13794,
            0.7201,
            0.71897,
            0.7781,
            0.42954,
        ],
    ),
}


# %% The models. They differ in what stands between the exposure and the count.
def graph(model: str) -> pavi.PlateGraph:
    """Returns the plate graph of `"one rate"`, `"negative binomial"` or `"a rate for each"`."""
    if model == "a rate for each":
        variables = [
            pavi.Latent("alpha", dist.Exponential(1.0)),
            pavi.Latent("beta", dist.Gamma(0.1, 1.0)),
            pavi.Latent("theta", lambda alpha, beta: dist.Gamma(alpha, beta), plates="pump"),
            pavi.Observed("failures", lambda theta, t: dist.Poisson(theta * t), plates="pump"),
        ]
    elif model == "negative binomial":
        variables = [
            pavi.Latent("rate", dist.Gamma(0.1, 0.1)),
            pavi.Latent("concentration", dist.Exponential(1.0)),
            pavi.Observed(
                "failures",
                lambda rate, concentration, t: dist.NegativeBinomial(rate * t, concentration),
                plates="pump",
            ),
        ]
    else:
        variables = [
            pavi.Latent("rate", dist.Gamma(0.1, 0.1)),
            pavi.Observed("failures", lambda rate, t: dist.Poisson(rate * t), plates="pump"),
        ]
    return pavi.PlateGraph(
        plates=[pavi.Plate("pump")], variables=[pavi.Covariate("t", plates="pump"), *variables]
    )


MODELS = ("one rate", "negative binomial", "a rate for each")


# %% The data. Without failures they are pumps to predict.
def data() -> pavi.Data:
    """Failures and exposure of each pump."""
    return pavi.Data({"failures": FAILURES, "t": THOUSAND_HOURS})


# %% Which model predicts a pump that it has not seen? `loo` from the draws of each. A high k-hat
# says that the posterior would be another one without this pump. Where each has a rate of its own
# that is so of all of them, and that line is not to be compared with the others.
def comparison(posteriors: dict[str, pavi.Posterior]) -> str:
    """A line for each model: expected log predictive density of a pump left out, and its k-hats."""
    import arviz

    lines = [f"{'':20}{'elpd':>8}{'se':>7}   pumps with k-hat above 0.7"]
    for model, posterior in posteriors.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the k-hats, which the table shows
            found = arviz.loo(posterior.to_arviz(4000), pointwise=True)
        high = int((np.asarray(found.pareto_k) > 0.7).sum())
        lines.append(f"{model:20}{found.elpd_loo:8.1f}{found.se:7.1f}   {high} of {len(FAILURES)}")
    return "\n".join(lines)


# %% The rates, and how far they are from the reference.
def report(posterior: pavi.Posterior) -> str:
    """A line for each pump of the third model, and the worst error against the reference."""
    draws = posterior.sample(20_000, seed=1)
    lines = [f"{'pump':6}{'failures':>10}{'1000 h':>9}{'raw rate':>10}{'mean':>8}{'sd':>8}"]
    for i, theta in enumerate(draws["theta"].T):
        x, t = FAILURES[i], THOUSAND_HOURS[i]
        lines.append(f"{i + 1:<6}{x:10}{t:9.2f}{x / t:10.3f}{theta.mean():8.3f}{theta.std():8.3f}")
    errors = {
        name: np.abs(draws[name].mean(0) - np.array(mean)) / np.array(sd)
        for name, (mean, sd) in REFERENCE.items()
    }
    ratios = np.concatenate(
        [np.atleast_1d(draws[name].std(0) / np.array(sd)) for name, (_, sd) in REFERENCE.items()]
    )
    worst = max(float(np.max(error)) for error in errors.values())
    lines.append(
        f"Against NUTS: means at most {worst:.3f} standard deviations off; "
        f"standard deviations {ratios.min():.2f} to {ratios.max():.2f} times the reference's."
    )
    return "\n".join(lines)


# %% What a covariate is for: the same pumps, each run for a thousand hours more.
def forecast(posterior: pavi.Posterior) -> str:
    """The chance that each pump fails at all in its next thousand hours."""
    more = pavi.Data({"t": np.ones(len(FAILURES))})
    failures = posterior.predict(4000, data=more)["failures"]
    chances = " ".join(f"{chance:.2f}" for chance in (failures > 0).mean(0))
    return f"Chance of a failure in the next thousand hours, by pump: {chances}"


# %% The picture: raw rates and posterior rates, against the exposure.
def picture(posterior: pavi.Posterior, path: Path) -> None:
    """Draws each pump's raw rate and its 90 % interval on the exposure."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    theta = posterior.sample(4000)["theta"]
    low, high = np.quantile(theta, [0.05, 0.95], axis=0)
    figure, axis = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    # Two pumps ran equally long: they stand side by side.
    t = THOUSAND_HOURS * np.where(np.arange(len(FAILURES)) == 7, 1.06, 1.0)
    axis.vlines(t, low, high, color="C1", linewidth=2)
    axis.plot(t, theta.mean(0), "o", color="C1", label="posterior: mean, 90 % interval")
    axis.plot(t, FAILURES / THOUSAND_HOURS, "x", color="C0", label="failures / hours")
    overall = FAILURES.sum() / THOUSAND_HOURS.sum()
    axis.axhline(overall, color="0.7", linewidth=1, label="all failures / all hours")
    axis.set(
        xscale="log",
        yscale="log",
        xlabel="thousand hours",
        ylabel="failures per thousand hours",
        title="No one rate fits ten pumps",
    )
    axis.legend()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


# %% Run it.
def main(arguments: list[str] | None = None) -> None:
    """Fits the three models, prints and draws."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=("numpyro", "tfp"), default="numpyro")
    parser.add_argument("--plot", type=Path, help="where to draw the picture")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    posteriors = {}
    for model in MODELS:
        posteriors[model] = pavi.fit(
            graph(model), data(), backend=args.backend, seed=args.seed, progress=False
        )
        print(f"{model}: {posteriors[model].seconds:.0f} s; {posteriors[model].verdict}")
    print(comparison(posteriors))
    own = posteriors["a rate for each"]
    print(report(own))
    print(forecast(own))
    if args.plot:
        picture(own, args.plot)


if __name__ == "__main__":
    main()
