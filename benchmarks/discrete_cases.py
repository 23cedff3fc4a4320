"""Reference cases with answers and counts, as plate graphs (see `case_models`)."""

from __future__ import annotations

import numpy as np
from gaussian_cases import Bound, Values, half_normals, real

from pavi import Covariate, Data, Latent, Observed, Plate, PlateGraph, dist, ops


def gym_irt_1pl(d: Values) -> Bound:
    graph = PlateGraph(
        [Plate("student"), Plate("question"), Plate("answer", within=("student", "question"))],
        [
            Latent("mean_student_ability", dist.Normal(0.75, 1.0)),
            Latent("centered_student_ability", dist.Normal(0.0, 1.0), plates="student"),
            Latent("question_difficulty", dist.Normal(0.0, 1.0), plates="question"),
            Observed(
                "correct",
                lambda mean_student_ability, centered_student_ability, question_difficulty: (
                    dist.Bernoulli(
                        logits=mean_student_ability + centered_student_ability - question_difficulty
                    )
                ),
                plates="answer",
            ),
        ],
    )
    members = {"answer": {"student": d["student"], "question": d["question"]}}
    return graph, Data({"correct": d["correct"]}, members=members)


def irt_2pl(d: Values) -> Bound:
    graph = PlateGraph(
        [Plate("person"), Plate("item")],
        [
            *(Latent(f"sigma_{k}", dist.HalfCauchy(2.0)) for k in ("theta", "a", "b")),
            Latent("mu_b", dist.Normal(0.0, 5.0)),
            Latent("theta", lambda sigma_theta: dist.Normal(0.0, sigma_theta), plates="person"),
            Latent("a", lambda sigma_a: dist.LogNormal(0.0, sigma_a), plates="item"),
            Latent("b", lambda mu_b, sigma_b: dist.Normal(mu_b, sigma_b), plates="item"),
            Observed(
                "y",
                lambda a, b, theta: dist.Bernoulli(logits=a * (theta - b)),
                plates=("item", "person"),
            ),
        ],
    )
    return graph, Data({"y": d["y"]})


def verbagg(d: Values) -> Bound:
    covariates = ("anger", "male", "scold", "shout", "self")
    graph = PlateGraph(
        [Plate("person"), Plate("item"), Plate("answer", within=("person", "item"))],
        [
            # All six regressors side by side, the constant first.
            Covariate("x", plates="answer", event=(6,)),
            Latent("b", dist.Normal(0.0, 5.0), event=(6,)),
            *half_normals(2.0, "s_u", "s_v"),
            Latent("u", lambda s_u: dist.Normal(0.0, s_u), plates="person"),
            Latent("v", lambda s_v: dist.Normal(0.0, s_v), plates="item"),
            Observed(
                "y",
                lambda b, x, u, v: dist.Bernoulli(logits=ops.sum(b * x, -1) + u + v),
                plates="answer",
            ),
        ],
    )
    x = np.stack([np.ones(len(d["y"])), *(real(d[name]) for name in covariates)], -1)
    members = {"answer": {"person": d["id"] - 1, "item": d["item"] - 1}}
    return graph, Data({"y": d["y"], "x": x}, members=members)


def glmm1_poisson_sites(d: Values) -> Bound:
    graph = PlateGraph(
        [Plate("site"), Plate("count", within="site")],
        [
            Latent("mu_alpha", dist.Normal(0.0, 10.0)),
            Latent("sd_alpha", dist.Uniform(0.0, 5.0)),
            Latent(
                "alpha", lambda mu_alpha, sd_alpha: dist.Normal(mu_alpha, sd_alpha), plates="site"
            ),
            Observed("obs", lambda alpha: dist.Poisson(log_rate=alpha), plates="count"),
        ],
    )
    return graph, Data({"obs": d["obs"]}, members={"count": {"site": d["obssite"] - 1}})


def glmm_poisson_years(d: Values) -> Bound:
    graph = PlateGraph(
        [Plate("year")],
        [
            Covariate("t", plates="year"),
            Latent("alpha", dist.Uniform(-20.0, 20.0)),
            *(Latent(f"beta{k}", dist.Uniform(-10.0, 10.0)) for k in (1, 2, 3)),
            Latent("sigma", dist.Uniform(0.0, 5.0)),
            Latent("eps", lambda sigma: dist.Normal(0.0, sigma), plates="year"),
            Observed(
                "C",
                lambda alpha, beta1, beta2, beta3, eps, t: dist.Poisson(
                    log_rate=alpha + beta1 * t + beta2 * t**2 + beta3 * t**3 + eps
                ),
                plates="year",
            ),
        ],
    )
    return graph, Data({"C": d["C"], "t": real(d["year"])})


def surgical(d: Values) -> Bound:
    graph = PlateGraph(
        [Plate("hospital")],
        [
            Covariate("n", plates="hospital"),
            Latent("mu", dist.Normal(0.0, 1000.0)),
            Latent("sigmasq", dist.InverseGamma(0.001, 0.001)),
            Latent("b", lambda mu, sigmasq: dist.Normal(mu, ops.sqrt(sigmasq)), plates="hospital"),
            Observed("r", lambda b, n: dist.Binomial(n, logits=b), plates="hospital"),
        ],
    )
    return graph, Data({"r": d["r"], "n": real(d["n"])})


def surgical_derived(draws: Values) -> dict[str, np.ndarray]:
    return {
        "sigma": np.sqrt(draws["sigmasq"]),
        "p": 1.0 / (1.0 + np.exp(-draws["b"])),
        "pop_mean": 1.0 / (1.0 + np.exp(-draws["mu"])),
    }


def bugs_pump(d: Values) -> Bound:
    graph = PlateGraph(
        [Plate("pump")],
        [
            Covariate("t", plates="pump"),
            Latent("alpha", dist.Exponential(1.0)),
            Latent("beta", dist.Gamma(0.1, 1.0)),
            Latent("theta", lambda alpha, beta: dist.Gamma(alpha, beta), plates="pump"),
            Observed("x", lambda theta, t: dist.Poisson(theta * t), plates="pump"),
        ],
    )
    return graph, Data({"x": d["x"], "t": real(d["t"])})


def bugs_inhalers(d: Values) -> Bound:
    graph = PlateGraph(
        [Plate("patient"), Plate("period")],
        [
            *(Covariate(k, plates=("patient", "period")) for k in ("treat", "order", "carry")),
            *(Latent(name, dist.Normal(0.0, 1000.0)) for name in ("beta", "pi", "kappa", "a0")),
            Latent("a", dist.Flat(dist.ORDERED), event=(3,)),
            Latent("sigmasq", dist.InverseGamma(0.001, 0.001)),
            Latent("b", lambda sigmasq: dist.Normal(0.0, ops.sqrt(sigmasq)), plates="patient"),
            Observed(
                "response",
                lambda a, b, beta, pi, kappa, treat, order, carry: dist.OrderedLogistic(
                    -(b + 0.5 * beta * treat + 0.5 * pi * order + kappa * carry), a
                ),
                plates=("patient", "period"),
            ),
        ],
    )
    group, response = _patients(d)
    values = {"response": response - 1, "treat": d["treat"], "order": d["period"]}
    values["carry"] = d["carry"]
    return graph, Data({k: v if k == "response" else real(v)[group] for k, v in values.items()})


def _patients(d: Values) -> tuple[np.ndarray, np.ndarray]:
    """Group `[patient]` and response `[patient, period]`, unrolled from cumulative counts."""
    group, response = np.zeros(d["N"], int), np.zeros((d["N"], 2), int)
    done = 0
    for counts, pattern in zip(d["Ncum"], d["pattern"], strict=True):
        for number, count in enumerate(counts):
            group[done:count], response[done:count] = number, pattern
            done = max(done, int(count))
    return group, response
