"""What a guide says to a model, to data and to starts that it cannot take, or takes in part."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from pavi.backends.numpyro.specs import stripped
from pavi.checks import nan_places
from pavi.errors import PaviWarning
from pavi.plan import GuidePlan


def check_values(trace: Mapping[str, Any]) -> None:
    """Raises where an observed value is no number, and nothing masks it."""
    for name, site in trace.items():
        if not is_observed(site) or isinstance(site["value"], jax.core.Tracer):
            continue
        missing = nan_places(np.asarray(site["value"]))
        if missing and not stripped(site["fn"])[1]:
            raise ValueError(
                f"The observed value of the site {name!r} is {missing}. Fill them with any number "
                f"of the site's support and leave them out of its density, as in "
                f"`with numpyro.handlers.mask(mask=present)`."
            )


def warn_unused(start: Any, trace: Mapping[str, Any]) -> None:
    """Says which values that latents are to start at are not used."""
    values = getattr(start, "keywords", {}).get("values") or {}
    unused = [n for n in values if n in trace and trace[n].get("cond_indep_stack")]
    if unused:
        warnings.warn(
            f"AutoPAVI starts latents on plates where its family does, and not at the values that "
            f"init_loc_fn has for the sites {unused}. Leave them out of it, or shift the sites by "
            f"these values in the model.",
            PaviWarning,
            stacklevel=2,
        )


def check_same(first: GuidePlan, plan: GuidePlan) -> None:
    """Raises where a plan has not the weights of the first one."""
    for before, own in zip(first.blocks, plan.blocks, strict=True):
        sites = [slot.name for slot in own.slots]
        changed = [p for p in own.plates if plan.sizes[p] != first.sizes[p]]
        if changed and (own.table_width or own.joint):
            raise ValueError(
                f"The plate {changed[0]!r} has the size {plan.sizes[changed[0]]}, and had "
                f"{first.sizes[changed[0]]} when AutoPAVI was set up; the sites {sites} have "
                f"weights for each of its elements. Use AutoPAVI(model, "
                f"family=pavi.Family(encoding='encoder', joint_limit=0))."
            )
        if own.parameters != before.parameters or own.table_width != before.table_width:
            raise ValueError(
                f"The data below the sites {sites} are other ones than when AutoPAVI was set up. "
                f"Call it with the same observed sites."
            )


def is_latent(site: Mapping[str, Any]) -> bool:
    """Whether a guide has a density for a site."""
    return (
        site["type"] == "sample" and not site["is_observed"] and not site["fn"].support.is_discrete
    )


def is_observed(site: Mapping[str, Any]) -> bool:
    """Whether a site has a value in the data."""
    return bool(site["type"] == "sample" and site["is_observed"])


def enumerated(trace: Mapping[str, Any]) -> set[str]:
    """The discrete latents that an ELBO sums out.

    Raises:
        ValueError: a discrete latent is not marked to be.
    """
    out: set[str] = set()
    for name, site in trace.items():
        if site["type"] != "sample" or site["is_observed"] or not site["fn"].support.is_discrete:
            continue
        if site["infer"].get("enumerate") != "parallel":
            raise ValueError(
                f"AutoPAVI cannot handle discrete latent site {name!r}. Sum it out by "
                f"numpyro.contrib.funsor.config_enumerate(model) and TraceEnum_ELBO, or hide it "
                f"from the guide by numpyro.handlers.block."
            )
        out.add(name)
    return out
