"""Pictures of a model and of its posterior, with matplotlib and Graphviz (extra `plots`).

`plates` returns an object of the package `graphviz`; each other function draws on `ax`, or on the
axes of a new figure, and returns them.
"""

from pavi.plot.calibrated import calibration
from pavi.plot.diagram import plates
from pavi.plot.groups import intervals, shrinkage
from pavi.plot.tails import pareto_k
from pavi.plot.trace import elbo

__all__ = ["calibration", "elbo", "intervals", "pareto_k", "plates", "shrinkage"]
