# %% [markdown]
# Radon again: intercepts and slopes of each county, correlated, and outcomes that are missing.
#
#     python examples/radon_slopes.py --backend numpyro --plot radon_slopes.png
#
# A home's measurement is higher in the basement (floor 0) than on the first floor (floor 1), by how
# much may differ between counties, and may go with how much radon a county has. With j the county
# of home n,
#
#     mean_0, mean_1 ~ Normal(0, 2)    scales_0, scales_1, noise ~ HalfNormal(1)
#     factor ~ LKJCholesky(2)                        Cholesky factor of the 2 x 2 correlations
#     effects_j ~ MultivariateNormal(mean, diag(scales) factor)
#     log_radon_n ~ Normal(effects_j0 + effects_j1 floor_n, noise)
#
# One home in ten is hidden from the fit: a NaN in the outcome is all that it takes. What the
# posterior predicts for it is then held against what was measured. The data: `data/ATTRIBUTION.md`.
"""Radon: correlated intercepts and slopes of each county under an LKJ prior; missing outcomes."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import pavi
from pavi import dist, ops

CSV = Path(__file__).parent / "data" / "radon.csv"


# %% The model. A vector for each county is `event=2`; a matrix is `event=(2, 2)`.
def graph() -> pavi.PlateGraph:
    """Returns the plate graph: homes within counties."""
    return pavi.PlateGraph(
        plates=[pavi.Plate("county"), pavi.Plate("home", within="county")],
        variables=[
            pavi.Covariate("floor", plates="home"),
            pavi.Latent("mean", dist.Normal(0.0, 2.0), event=2),
            pavi.Latent("scales", dist.HalfNormal(1.0), event=2),
            pavi.Latent("factor", dist.LKJCholesky(2, 2.0), event=(2, 2)),
            pavi.Latent("noise", dist.HalfNormal(1.0)),
            pavi.Latent(
                "effects",
                lambda mean, scales, factor: dist.MultivariateNormal(
                    mean, ops.expand_dims(scales, -1) * factor
                ),
                plates="county",
                event=2,
            ),
            pavi.Observed(
                "log_radon",
                lambda effects, noise, floor: dist.Normal(
                    effects[..., 0] + effects[..., 1] * floor, noise
                ),
                plates="home",
            ),
        ],
    )


# %% The data, with the outcomes of some homes taken out.
def homes() -> np.ndarray:
    """The table, a row for each home."""
    return np.genfromtxt(CSV, delimiter=",", names=True)


def data(hidden: np.ndarray) -> pavi.Data:
    """The homes; the outcomes of the `hidden` ones are missing."""
    table = homes()
    log_radon = table["log_radon"].copy()
    log_radon[hidden] = np.nan
    return pavi.Data(
        {"log_radon": log_radon, "floor": table["floor"]},
        members={"home": {"county": table["county"].astype(int) - 1}},
    )


# %% The answer: globals and their 90 % intervals, and the hidden homes.
def report(posterior: pavi.Posterior, hidden: np.ndarray, num_samples: int = 4000) -> str:
    """A line for each global, and how many of the hidden outcomes lie where they were predicted."""
    draws = posterior.sample(num_samples)
    shown = {
        "basement, mean of counties": draws["mean"][:, 0],
        "first floor less basement": draws["mean"][:, 1],
        "sd of counties' basements": draws["scales"][:, 0],
        "sd of counties' differences": draws["scales"][:, 1],
        # Of a 2 x 2 factor the lower left corner is the correlation.
        "their correlation": draws["factor"][:, 1, 0],
        "noise": draws["noise"],
    }
    lines = [f"{'':30}{'mean':>8}{'sd':>8}{'5 %':>8}{'95 %':>8}"]
    for name, value in shown.items():
        low, high = np.quantile(value, [0.05, 0.95])
        lines.append(f"{name:30}{value.mean():8.3f}{value.std():8.3f}{low:8.3f}{high:8.3f}")
    predicted = posterior.predict(num_samples)["log_radon"][:, hidden]
    low, high = np.quantile(predicted, [0.05, 0.95], axis=0)
    truth = homes()["log_radon"][hidden]
    inside = int(((low < truth) & (truth < high)).sum())
    error = np.sqrt(np.square(predicted.mean(0) - truth).mean())
    lines.append(
        f"{len(hidden)} hidden homes: {inside} ({inside / len(hidden):.0%}) lie in their 90 % "
        f"intervals; root mean square error {error:.2f}."
    )
    return "\n".join(lines)


# %% The picture: every county as its own homes have it, and as the posterior has it.
def picture(posterior: pavi.Posterior, hidden: np.ndarray, path: Path) -> None:
    """Draws arrows from counties' own means to their posterior means, and the law of counties."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    table = np.delete(homes(), hidden)
    county = table["county"].astype(int) - 1
    draws = posterior.sample(1000)
    effects = draws["effects"].mean(0)
    figure, axis = pyplot.subplots(figsize=(7, 5.5), layout="constrained")
    # Contours of one and two standard deviations of the counties' law, at its posterior mean.
    factor = (draws["scales"][..., None] * draws["factor"]).mean(0)
    turn = np.linspace(0.0, 2.0 * np.pi, 200)
    circle, centre = np.stack([np.cos(turn), np.sin(turn)]), draws["mean"].mean(0)
    for radius in (1.0, 2.0):
        x, y = centre[:, None] + radius * factor @ circle
        axis.plot(x, y, color="0.75", linewidth=1.0)
    for j in np.unique(county):
        own, floor = table["log_radon"][county == j], table["floor"][county == j]
        if 0.0 < floor.mean() < 1.0:
            basement = own[floor == 0.0].mean()
            raw = np.array([basement, own[floor == 1.0].mean() - basement])
            axis.annotate(
                "", effects[j], raw, arrowprops={"arrowstyle": "->", "color": "C0", "alpha": 0.4}
            )
            axis.plot(*raw, ".", color="C0", alpha=0.4)
    axis.plot(*effects.T, "o", color="C1", markersize=4)
    axis.set(
        xlabel="log radon in the basement",
        ylabel="first floor less basement",
        title="Counties: from their own homes' means (blue) to their posterior means",
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
    count = len(homes())
    hidden = np.random.default_rng(args.seed).choice(count, count // 10, replace=False)
    posterior = pavi.fit(
        graph(), data(hidden), backend=args.backend, seed=args.seed, progress=False
    )
    print(f"{posterior.seconds:.0f} s; {posterior.verdict}")
    print(report(posterior, hidden))
    if args.plot:
        picture(posterior, hidden, args.plot)


if __name__ == "__main__":
    main()
