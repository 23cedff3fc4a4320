# %% [markdown]
# Birds at 235 sites in 9 years: a mixture whose labels are summed out, and counts that are missing.
#
#     python examples/birds.py --backend numpyro --plot birds.png
#
# Some sites have few birds, others many. With s a site and y a year,
#
#     low ~ Normal(0, 2)    gap ~ Gamma(4, 2)    spread_0, spread_1 ~ HalfNormal(1)
#     share ~ Beta(2, 2)
#     level_s ~ share Normal(low, spread_0) + (1 - share) Normal(low + gap, spread_1)
#     count_sy ~ Poisson(exp(level_s))
#
# Which of the two kinds a site is of is summed out of the model, and `pavi.responsibilities` gives
# it back as a probability for each site. The gap is positive, so that the first kind is always the
# one with few birds. 43 counts are missing: the fit leaves them out, `predict` imputes them. The
# data: `data/ATTRIBUTION.md`.
"""Birds: a mixture of two kinds of sites, the kind of each site, and missing counts imputed."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import pavi
from pavi import dist, ops

CSV = Path(__file__).parent / "data" / "birds.csv"


# %% The model. A latent may be a mixture as well as an outcome may.
def graph() -> pavi.PlateGraph:
    """Returns the plate graph: sites cross years."""

    def kinds(low: object, gap: object, spread: object, share: object) -> dist.Spec:
        few = dist.Normal(low, spread[..., 0])
        many = dist.Normal(low + gap, spread[..., 1])
        return dist.Mixture(ops.stack([share, 1.0 - share], axis=-1), [few, many])

    return pavi.PlateGraph(
        plates=[pavi.Plate("site"), pavi.Plate("year")],
        variables=[
            pavi.Latent("low", dist.Normal(0.0, 2.0)),
            pavi.Latent("gap", dist.Gamma(4.0, 2.0)),
            pavi.Latent("spread", dist.HalfNormal(1.0), event=2),
            pavi.Latent("share", dist.Beta(2.0, 2.0)),
            pavi.Latent("level", kinds, plates="site"),
            pavi.Observed(
                "count", lambda level: dist.Poisson(log_rate=level), plates=("site", "year")
            ),
        ],
    )


# %% The data. What is empty in the table is NaN, which is what a missing outcome is.
def counts() -> np.ndarray:
    """The counts, `[site, year]`."""
    return np.genfromtxt(CSV, delimiter=",", skip_header=1)[:, 1:]


def data() -> pavi.Data:
    """The counts, dense in sites and years."""
    return pavi.Data({"count": counts()})


# %% The answer: the two kinds, the kind of each site, and the missing counts.
def report(posterior: pavi.Posterior, num_samples: int = 4000) -> str:
    """The kinds and how many sites are of each; what the missing counts may have been."""
    draws = posterior.sample(num_samples)
    few = pavi.responsibilities(posterior, num_samples)["level"][:, 0]
    shown = {
        "share of sites with few birds": draws["share"],
        "birds at a site with few (median)": np.exp(draws["low"]),
        "birds at a site with many (median)": np.exp(draws["low"] + draws["gap"]),
        "spread of the log, few": draws["spread"][:, 0],
        "spread of the log, many": draws["spread"][:, 1],
    }
    lines = [f"{'':36}{'mean':>8}{'sd':>8}{'5 %':>8}{'95 %':>8}"]
    for name, value in shown.items():
        low, high = np.quantile(value, [0.05, 0.95])
        lines.append(f"{name:36}{value.mean():8.2f}{value.std():8.2f}{low:8.2f}{high:8.2f}")
    sure = int((few > 0.9).sum()), int((few < 0.1).sum())
    lines.append(
        f"Of {len(few)} sites, {sure[0]} have few birds and {sure[1]} many, with a probability of "
        f"0.9 or more; {len(few) - sum(sure)} are not sure."
    )
    missing = np.isnan(counts())
    imputed = posterior.predict(num_samples)["count"][:, missing]
    low, high = np.quantile(imputed.sum(1), [0.05, 0.95])
    lines.append(
        f"{missing.sum()} counts are missing; together {low:.0f} to {high:.0f} birds (90 %), where "
        f"the others have {np.nansum(counts()):.0f}."
    )
    return "\n".join(lines)


# %% The picture: every site's level, coloured by the kind that it is of.
def picture(posterior: pavi.Posterior, path: Path) -> None:
    """Draws each site's interval, from few birds to many, and its responsibility as a colour."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    level = np.exp(posterior.sample(1000)["level"])
    few = pavi.responsibilities(posterior, 1000)["level"][:, 0]
    order = np.argsort(level.mean(0))
    low, high = np.quantile(level[:, order], [0.05, 0.95], axis=0)
    figure, axis = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    place = np.arange(len(order))
    axis.vlines(place, low, high, color=pyplot.get_cmap("coolwarm")(few[order]), linewidth=1.2)
    shown = axis.scatter(
        place, level.mean(0)[order], c=few[order], cmap="coolwarm", vmin=0, vmax=1, s=9, zorder=2
    )
    figure.colorbar(shown, label="probability of a site with few birds")
    axis.set(
        yscale="log",
        xlabel="sites, from few birds to many",
        ylabel="birds a year: mean, 90 % interval",
        title="Two kinds of sites",
    )
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


# %% Run it.
def main(arguments: list[str] | None = None) -> None:
    """Fits, prints and draws."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=("numpyro", "tfp"), default="numpyro")
    parser.add_argument("--plot", type=Path, help="where to draw the picture")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    posterior = pavi.fit(graph(), data(), backend=args.backend, seed=args.seed, progress=False)
    print(f"{posterior.seconds:.0f} s; {posterior.verdict}")
    print(report(posterior))
    if args.plot:
        picture(posterior, args.plot)


if __name__ == "__main__":
    main()
