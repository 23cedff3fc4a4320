"""Reference cases with normal observations, as plate graphs (see `case_models`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pavi import Covariate, Data, Latent, Observed, Plate, PlateGraph, dist, ops

Values = Mapping[str, Any]
Bound = tuple[PlateGraph, Data]


def real(values: Any) -> np.ndarray:
    return np.asarray(values, np.float64)


def half_normals(scale: float, *names: str) -> list[Latent]:
    return [Latent(name, dist.HalfNormal(scale)) for name in names]


def radon_hierarchical_intercept(d: Values) -> Bound:
    graph = PlateGraph(
        [Plate("county"), Plate("home", within="county")],
        [
            Covariate("uranium", plates="home"),
            Covariate("floor", plates="home"),
            Latent("mu_alpha", dist.Normal(0.0, 10.0)),
            Latent("beta", dist.Normal(0.0, 10.0), event=(2,)),
            *half_normals(1.0, "sigma_alpha", "sigma_y"),
            Latent(
                "alpha",
                lambda mu_alpha, sigma_alpha: dist.Normal(mu_alpha, sigma_alpha),
                plates="county",
            ),
            Observed(
                "y",
                lambda alpha, beta, uranium, floor, sigma_y: dist.Normal(
                    alpha + beta[..., 0] * uranium + beta[..., 1] * floor, sigma_y
                ),
                plates="home",
            ),
        ],
    )
    values = {"y": d["log_radon"], "uranium": d["log_uppm"], "floor": real(d["floor_measure"])}
    return graph, Data(values, members={"home": {"county": d["county_idx"] - 1}})


def radon_variable_intercept_slope(d: Values) -> Bound:
    graph = PlateGraph(
        [Plate("county"), Plate("home", within="county")],
        [
            Covariate("floor", plates="home"),
            Latent("mu_alpha", dist.Normal(0.0, 10.0)),
            Latent("mu_beta", dist.Normal(0.0, 10.0)),
            *half_normals(1.0, "sigma_alpha", "sigma_beta", "sigma_y"),
            Latent(
                "alpha",
                lambda mu_alpha, sigma_alpha: dist.Normal(mu_alpha, sigma_alpha),
                plates="county",
            ),
            Latent(
                "beta",
                lambda mu_beta, sigma_beta: dist.Normal(mu_beta, sigma_beta),
                plates="county",
            ),
            Observed(
                "y",
                lambda alpha, beta, floor, sigma_y: dist.Normal(alpha + beta * floor, sigma_y),
                plates="home",
            ),
        ],
    )
    values = {"y": d["log_radon"], "floor": real(d["floor_measure"])}
    return graph, Data(values, members={"home": {"county": d["county_idx"] - 1}})


def gym_radon_minnesota(d: Values) -> Bound:
    graph = PlateGraph(
        [Plate("county"), Plate("home", within="county")],
        [
            Covariate("uranium", plates="home"),
            Covariate("floor", plates="home"),
            Covariate("floor_by_county", plates="county"),
            Latent("county_effect_mean", dist.Normal(0.0, 1.0)),
            *half_normals(1.0, "county_effect_scale", "log_radon_scale"),
            Latent("weight", dist.Normal(0.0, 1.0), event=(3,)),
            Latent(
                "county_effect",
                lambda county_effect_mean, county_effect_scale: dist.Normal(
                    county_effect_mean, county_effect_scale
                ),
                plates="county",
            ),
            Observed(
                "y",
                lambda county_effect, weight, uranium, floor, floor_by_county, log_radon_scale: (
                    dist.Normal(
                        county_effect
                        + weight[..., 0] * uranium
                        + weight[..., 1] * floor
                        + weight[..., 2] * floor_by_county,
                        log_radon_scale,
                    )
                ),
                plates="home",
            ),
        ],
    )
    values = {
        "y": d["log_radon"],
        "uranium": d["log_uranium"],
        "floor": real(d["floor"]),
        "floor_by_county": d["floor_by_county"],
    }
    return graph, Data(values, members={"home": {"county": d["county"]}})


def eight_schools(d: Values) -> Bound:
    graph = PlateGraph(
        [Plate("school")],
        [
            Covariate("s", plates="school"),
            Latent("mu", dist.Normal(0.0, 5.0)),
            Latent("tau", dist.HalfCauchy(5.0)),
            Latent("theta", lambda mu, tau: dist.Normal(mu, tau), plates="school"),
            Observed("y", lambda theta, s: dist.Normal(theta, s), plates="school"),
        ],
    )
    return graph, Data({"y": real(d["y"]), "s": real(d["sigma"])})


def gym_eight_schools(d: Values) -> Bound:
    graph = PlateGraph(
        [Plate("school")],
        [
            Covariate("s", plates="school"),
            Latent("avg_effect", dist.Normal(0.0, 10.0)),
            Latent("log_stddev", dist.Normal(5.0, 1.0)),
            Latent(
                "school_effects",
                lambda avg_effect, log_stddev: dist.Normal(avg_effect, ops.exp(log_stddev)),
                plates="school",
            ),
            Observed(
                "y", lambda school_effects, s: dist.Normal(school_effects, s), plates="school"
            ),
        ],
    )
    return graph, Data({"y": real(d["y"]), "s": real(d["sigma"])})


def rats(d: Values) -> Bound:
    graph = PlateGraph(
        [Plate("rat"), Plate("weighing", within="rat")],
        [
            Covariate("x", plates="weighing"),
            Latent("mu_alpha", dist.Normal(0.0, 100.0)),
            Latent("mu_beta", dist.Normal(0.0, 100.0)),
            *(Latent(f"sigma_{k}", dist.Flat(dist.POSITIVE)) for k in ("y", "alpha", "beta")),
            Latent(
                "alpha",
                lambda mu_alpha, sigma_alpha: dist.Normal(mu_alpha, sigma_alpha),
                plates="rat",
            ),
            Latent(
                "beta", lambda mu_beta, sigma_beta: dist.Normal(mu_beta, sigma_beta), plates="rat"
            ),
            Observed(
                "y",
                lambda alpha, beta, x, sigma_y: dist.Normal(alpha + beta * x, sigma_y),
                plates="weighing",
            ),
        ],
    )
    values = {"y": real(d["y"]), "x": real(d["x"]) - float(d["xbar"])}
    return graph, Data(values, members={"weighing": {"rat": d["rat"] - 1}})


def pastes(d: Values) -> Bound:
    graph = PlateGraph(
        [Plate("batch"), Plate("cask", within="batch"), Plate("test", within="cask")],
        [
            Latent("mu", dist.Normal(60.0, 10.0)),
            *half_normals(5.0, "sigma_y", "sigma_cask", "sigma_batch"),
            Latent("v_batch", lambda sigma_batch: dist.Normal(0.0, sigma_batch), plates="batch"),
            Latent("u_cask", lambda sigma_cask: dist.Normal(0.0, sigma_cask), plates="cask"),
            Observed(
                "y",
                lambda mu, u_cask, v_batch, sigma_y: dist.Normal(mu + u_cask + v_batch, sigma_y),
                plates="test",
            ),
        ],
    )
    members = {"test": {"cask": d["cask"]}, "cask": {"batch": d["batch_of_cask"]}}
    return graph, Data({"y": d["strength"]}, members=members)


def penicillin(d: Values) -> Bound:
    graph = PlateGraph(
        [Plate("plate"), Plate("sample"), Plate("cell", within=("plate", "sample"))],
        [
            Latent("mu", dist.Normal(20.0, 10.0)),
            *half_normals(5.0, "sigma_y", "sigma_plate", "sigma_sample"),
            Latent("u_plate", lambda sigma_plate: dist.Normal(0.0, sigma_plate), plates="plate"),
            Latent(
                "v_sample", lambda sigma_sample: dist.Normal(0.0, sigma_sample), plates="sample"
            ),
            Observed(
                "y",
                lambda mu, u_plate, v_sample, sigma_y: dist.Normal(
                    mu + u_plate + v_sample, sigma_y
                ),
                plates="cell",
            ),
        ],
    )
    members = {"cell": {"plate": d["plate"], "sample": d["sample"]}}
    return graph, Data({"y": d["diameter"]}, members=members)


def scotssec(d: Values) -> Bound:
    graph = PlateGraph(
        [Plate("primary"), Plate("secondary"), Plate("pupil", within=("primary", "secondary"))],
        [
            Covariate("female", plates="pupil"),
            Latent("beta0", dist.Normal(0.0, 10.0)),
            Latent("beta_female", dist.Normal(0.0, 10.0)),
            *half_normals(5.0, "sigma_y", "sigma_primary", "sigma_secondary"),
            Latent(
                "u_primary", lambda sigma_primary: dist.Normal(0.0, sigma_primary), plates="primary"
            ),
            Latent(
                "v_secondary",
                lambda sigma_secondary: dist.Normal(0.0, sigma_secondary),
                plates="secondary",
            ),
            Observed(
                "y",
                lambda beta0, beta_female, female, u_primary, v_secondary, sigma_y: dist.Normal(
                    beta0 + beta_female * female + u_primary + v_secondary, sigma_y
                ),
                plates="pupil",
            ),
        ],
    )
    members = {"pupil": {"primary": d["primary"], "secondary": d["second"]}}
    return graph, Data({"y": real(d["attain"]), "female": real(d["female"])}, members=members)


def chem97(d: Values) -> Bound:
    graph = PlateGraph(
        [Plate("authority"), Plate("school", within="authority"), Plate("pupil", within="school")],
        [
            Covariate("gcse", plates="pupil"),
            Latent("beta0", dist.Normal(0.0, 10.0)),
            Latent("beta_gcse", dist.Normal(0.0, 10.0)),
            *half_normals(5.0, "sigma_y", "sigma_school", "sigma_lea"),
            Latent("v_lea", lambda sigma_lea: dist.Normal(0.0, sigma_lea), plates="authority"),
            Latent(
                "u_school", lambda sigma_school: dist.Normal(0.0, sigma_school), plates="school"
            ),
            Observed(
                "y",
                lambda beta0, beta_gcse, gcse, u_school, v_lea, sigma_y: dist.Normal(
                    beta0 + beta_gcse * gcse + u_school + v_lea, sigma_y
                ),
                plates="pupil",
            ),
        ],
    )
    authority = np.zeros(d["school"].max() + 1, np.int64)
    authority[d["school"]] = d["lea"]
    members = {"pupil": {"school": d["school"]}, "school": {"authority": authority}}
    return graph, Data({"y": real(d["score"]), "gcse": real(d["gcsecnt"])}, members=members)
