"""Functional networks of a population: a map of probabilities for every subject's cortex.

    python examples/cortex.py --subjects 100 --vertices 2000
    python examples/cortex.py                        # 1,000 x 59,412 x 7: 416 million logits

A model of the paper's kind. Of network l, subject s, session t, vertex v:

    mean_l ~ Normal(template_l, 0.2)                  profile in R^64, near an atlas's template
    subject_sl ~ Normal(mean_l, tau_subject)          the subject's own
    session_stl ~ Normal(subject_sl, tau_session)     the session's own
    map_vl ~ Normal(0, 1.5)                           the population's logits
    logits_svl ~ Normal(map_vl, tau_logits)           the subject's own
    x_stv ~ sum_l softmax(logits_sv)_l Normal(session_stl, sigma)

The label that a measurement shows is summed out. The data are simulated: `cortex_data.py` makes any
part of them when it is read. Every step sees a few vertices of all subjects; the mean and standard
deviation of all latents are written to a Zarr store, a few subjects' maps are drawn, and what was
found is held against the truth.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import xarray
from cortex_data import FEATURES, NOISE, SESSIONS, TEMPLATE, Cortex

import pavi
from pavi import dist, ops

# Of so many subjects the labels and intervals are held against the truth, and so many are drawn.
LOOKED_AT, DRAWN = 20, 3
# Half the width of a Gaussian's 90 % interval, in standard deviations.
HALF_WIDTH = 1.6449


def graph(networks: int = 7) -> pavi.PlateGraph:
    """Returns the plate graph: subjects, sessions and vertices cross one another."""
    profiles = (networks, FEATURES)

    def measurement(logits: object, session: object, sigma: object) -> dist.Spec:
        components = [dist.Normal(profile, sigma) for profile in ops.unstack(session, -2)]
        return dist.Mixture(ops.softmax(logits), components, reinterpreted_batch_ndims=1)

    return pavi.PlateGraph(
        plates=[pavi.Plate("subject"), pavi.Plate("session"), pavi.Plate("vertex")],
        variables=[
            pavi.Covariate("template", event=profiles),
            pavi.Latent("mean", lambda template: dist.Normal(template, TEMPLATE), event=profiles),
            pavi.Latent("tau_subject", dist.HalfNormal(0.5)),
            pavi.Latent("tau_session", dist.HalfNormal(0.5)),
            pavi.Latent("tau_logits", dist.HalfNormal(2.0)),
            pavi.Latent("sigma", dist.HalfNormal(2.0)),
            pavi.Latent(
                "subject_profile",
                lambda mean, tau_subject: dist.Normal(mean, tau_subject),
                plates="subject",
                event=profiles,
            ),
            pavi.Latent(
                "session_profile",
                lambda subject_profile, tau_session: dist.Normal(subject_profile, tau_session),
                plates=("subject", "session"),
                event=profiles,
            ),
            pavi.Latent("map", dist.Normal(0.0, 1.5), plates="vertex", event=networks),
            pavi.Latent(
                "logits",
                lambda map, tau_logits: dist.Normal(map, tau_logits),
                plates=("subject", "vertex"),
                event=networks,
            ),
            pavi.Observed(
                "x",
                lambda logits, session_profile, sigma: measurement(logits, session_profile, sigma),
                plates=("subject", "session", "vertex"),
                event=FEATURES,
            ),
        ],
    )


# Every step has all subjects of its vertices, so that a deep set can encode what they say of the
# map; the logits' own encoding reads the model.
FAMILY = pavi.Family(
    newton_steps=1, overrides={"map": {"encoding": "encoder", "encoder": "deep_set"}}
)


def data(truth: Cortex) -> pavi.Data:
    """The measurements, made when they are asked for."""
    sizes = {"subject": truth.subjects, "session": SESSIONS, "vertex": truth.vertices}
    return pavi.Data({"template": truth.template}, sizes=sizes, rows=truth.rows)


def log_joint(logits: np.ndarray, profile: np.ndarray, sigma: float, x: np.ndarray) -> np.ndarray:
    """Log p(label, x) of each network, up to a constant, `[sessions, vertices, networks]`.

    Args:
        logits: of one subject, `[vertices, networks]`.
        profile: of its sessions, `[sessions, networks, FEATURES]`.
        sigma: the measurements' noise.
        x: its measurements, `[sessions, vertices, FEATURES]`.
    """
    # |x - profile|^2 = |x|^2 - 2 x . profile + |profile|^2
    distance = np.square(profile).sum(-1)[:, None] - 2.0 * np.einsum("tvf,tlf->tvl", x, profile)
    return logits - 0.5 * distance / sigma**2


def against_truth(truth: Cortex, store: xarray.Dataset) -> dict[str, float]:
    """Label accuracy, also of the true parameters, coverage and errors, over some subjects."""
    vertex, session = np.arange(truth.vertices), np.arange(SESSIONS)
    sigma, count = float(store["sigma_mean"]), min(LOOKED_AT, truth.subjects)
    # All of them at once: a chunk of the store has all subjects of some vertices.
    means, sds = (store[f"logits_{s}"][:count].to_numpy() for s in ("mean", "sd"))
    right, best, inside, squares, variance = [], [], [], [], []
    for subject, (mean, sd) in enumerate(zip(means, sds, strict=True)):
        one = np.array([subject])
        x = truth.rows({"subject": one, "session": session, "vertex": vertex})["x"][0]
        label = truth.labels(one, vertex)[0]
        logits = truth.logits(one, vertex)[0]
        profile = store["session_profile_mean"][subject].to_numpy()
        right.append((log_joint(mean, profile, sigma, x).argmax(-1) == label).mean())
        best.append(
            (log_joint(logits, truth.profile[subject], NOISE, x).argmax(-1) == label).mean()
        )
        inside.append((np.abs(mean - logits) < HALF_WIDTH * sd).mean())
        squares.append(np.square(mean - logits).mean())
        variance.append(np.square(sd).mean())
    error = store["session_profile_mean"].to_numpy() - truth.profile
    return {
        "label_accuracy": float(np.mean(right)),
        "label_accuracy_of_the_truth": float(np.mean(best)),
        "logits_coverage_90": float(np.mean(inside)),
        "logits_rmse": float(np.sqrt(np.mean(squares))),
        "logits_sd": float(np.sqrt(np.mean(variance))),
        "session_profile_rmse": float(np.sqrt(np.square(error).mean())),
        "session_profile_sd": float(np.sqrt(np.square(store["session_profile_sd"]).mean())),
        **{n: float(store[f"{n}_mean"]) for n in ("tau_subject", "tau_session", "tau_logits")},
        "sigma": sigma,
    }


def picture(truth: Cortex, store: xarray.Dataset, path: Path) -> None:
    """Draws the true and the inferred map of a few subjects, and where the latter is uncertain."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    count = min(DRAWN, truth.subjects)
    side = int(np.ceil(np.sqrt(truth.vertices)))
    figure, axes = pyplot.subplots(
        3, count, figsize=(3.2 * count, 9), squeeze=False, layout="constrained"
    )

    def sheet(values: np.ndarray) -> np.ndarray:
        """Values of the vertices on the square that they lie on."""
        out = np.full(side * side, np.nan)
        out[: truth.vertices] = values
        return out.reshape(side, side)

    means = store["logits_mean"][:count].to_numpy()
    for subject, (mean, column) in enumerate(zip(means, axes.T, strict=True)):
        logits = truth.logits(np.array([subject]), np.arange(truth.vertices))[0]
        chance = np.exp(mean - mean.max(-1, keepdims=True))
        chance /= chance.sum(-1, keepdims=True)
        entropy = -(chance * np.log(chance)).sum(-1) / np.log(truth.networks)
        style: dict[str, Any] = {"cmap": "tab10", "vmin": -0.5, "vmax": 9.5}
        column[0].imshow(sheet(logits.argmax(-1)), interpolation="nearest", **style)
        column[1].imshow(sheet(mean.argmax(-1)), interpolation="nearest", **style)
        shown = column[2].imshow(sheet(entropy), interpolation="nearest", vmin=0, vmax=1)
        column[0].set_title(f"subject {subject}")
    for row, name in zip(axes, ("true network", "inferred network", "uncertainty"), strict=True):
        row[0].set_ylabel(name)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    figure.colorbar(shown, ax=axes[2], label="entropy of the labels, relative", shrink=0.8)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def main(arguments: list[str] | None = None) -> None:
    """Fits, exports, looks at the truth and draws."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--subjects", type=int, default=1000)
    parser.add_argument("--vertices", type=int, default=59_412)
    parser.add_argument("--networks", type=int, default=7)
    parser.add_argument("--backend", choices=("numpyro", "tfp"), default="numpyro")
    parser.add_argument("--batch", type=int, default=16, help="vertices at a step")
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--learning-rate", type=float, default=0.01)
    parser.add_argument("--num-samples", type=int, default=2, help="draws behind mean and sd")
    parser.add_argument("--memory", type=float, default=2.0, help="GiB for the export")
    parser.add_argument("--folder", type=Path, default=Path("cortex"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    truth = Cortex(args.subjects, args.vertices, args.networks, args.seed)
    args.folder.mkdir(parents=True, exist_ok=True)

    start = time.perf_counter()
    posterior = pavi.fit(
        graph(args.networks),
        data(truth),
        backend=args.backend,
        family=FAMILY,
        batch={"vertex": min(args.batch, args.vertices)},
        steps=args.steps,
        learning_rate=args.learning_rate,
        # The noise that the path's gradient saves is little beside that of a few vertices.
        gradient="total",
        seed=args.seed,
        checkpoint=args.folder / "checkpoints",
    )
    fitted = time.perf_counter()
    path = posterior.export(
        args.folder / "posterior.zarr",
        statistics=("mean", "sd"),
        num_samples=args.num_samples,
        memory=int(args.memory * 2**30),
    )
    exported = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    found = {
        "backend": args.backend,
        "latents": posterior.plan.num_latents,
        "training_minutes": (fitted - start) / 60,
        "export_minutes": (exported - fitted) / 60,
        "peak_resident_GiB": peak,
        "verdict": posterior.verdict,
    }
    with xarray.open_zarr(path) as store:
        found |= against_truth(truth, store)
        picture(truth, store, args.folder / "maps.png")
    print(json.dumps(found, indent=2))
    (args.folder / "found.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
