"""A simulated population of cortices, any part of which is made when it is asked for.

Networks lie on a sheet of vertices. Each network has a profile in R^64 that varies from subject to
subject and from session to session; each vertex of a subject has logits of the networks, around
those of the population; a measurement shows the profile of one network, drawn by these logits,
under noise. At full size the measurements are 30 GB: nothing of them is kept, and their noise is a
function of the seed and of their place, so that the same rows are the same at any time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

FEATURES, SESSIONS = 64, 2
# Standard deviations: of networks' mean profiles, of subjects' about them, of sessions' about
# these, of the measurements, of the population's logits over the sheet and of subjects' about them.
MEAN, SUBJECT, SESSION, NOISE, MAP, LOGITS = 0.35, 0.15, 0.08, 1.0, 1.5, 1.0
# How far the template that the model is given lies from the networks' mean profiles.
TEMPLATE = 0.2
_WAVES = 6


@dataclass(frozen=True)
class Cortex:
    """The truth behind the measurements.

    Attributes:
        subjects, vertices, networks: how many there are.
        seed: of everything random.
    """

    subjects: int
    vertices: int
    networks: int
    seed: int = 0

    @cached_property
    def mean(self) -> np.ndarray:
        """Mean profile of each network, `[networks, FEATURES]`."""
        return self._normal("mean", MEAN, (self.networks, FEATURES))

    @cached_property
    def template(self) -> np.ndarray:
        """What an atlas says of the mean profiles, `[networks, FEATURES]`."""
        return self.mean + self._normal("template", TEMPLATE, self.mean.shape)

    @cached_property
    def profile(self) -> np.ndarray:
        """Profiles of each session, `[subjects, SESSIONS, networks, FEATURES]`."""
        subject = self.mean + self._normal("subject", SUBJECT, (self.subjects, *self.mean.shape))
        shape = (self.subjects, SESSIONS, *self.mean.shape)
        return subject[:, None] + self._normal("session", SESSION, shape)

    @cached_property
    def sheet(self) -> np.ndarray:
        """Where each vertex lies on the unit square, `[vertices, 2]`, row by row."""
        side = int(np.ceil(np.sqrt(self.vertices)))
        return np.stack(np.divmod(np.arange(self.vertices), side), -1) / side

    @cached_property
    def map(self) -> np.ndarray:
        """The population's logits, smooth over the sheet, `[vertices, networks]`."""
        rng = np.random.default_rng([self.seed, 1])
        waves = rng.normal(scale=8.0, size=(self.networks, _WAVES, 2))
        phase = rng.uniform(0.0, 2.0 * np.pi, (self.networks, _WAVES))
        fields = np.cos(np.einsum("vi,lwi->vlw", self.sheet, waves) + phase)
        return (MAP * fields.sum(-1) * np.sqrt(2.0 / _WAVES)).astype(np.float32)

    def logits(self, subject: np.ndarray, vertex: np.ndarray) -> np.ndarray:
        """Logits `[subjects, vertices, networks]` at these positions."""
        place = subject[:, None] * self.vertices + vertex
        eps = self._normals(2, place, self.networks)
        return self.map[vertex] + np.float32(LOGITS) * eps

    def labels(self, subject: np.ndarray, vertex: np.ndarray) -> np.ndarray:
        """Which network each measurement shows, `[subjects, SESSIONS, vertices]`."""
        logits = self.logits(subject, vertex)
        below = np.cumsum(np.exp(logits - logits.max(-1, keepdims=True)), -1)
        below /= below[..., -1:]
        chance = _uniforms(_hash(self._places(subject, vertex), self.seed, 3))[0]
        return (chance[..., None] > below[:, None]).sum(-1)

    def rows(self, positions: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Measurements `{"x": [subjects, sessions, vertices, FEATURES]}` at these positions."""
        subject, session, vertex = (positions[p] for p in ("subject", "session", "vertex"))
        label = self.labels(subject, vertex)[:, session]
        own = np.arange(len(subject))[:, None, None]
        x = self.profile[subject][:, session][own, np.arange(len(session))[:, None], label]
        place = self._places(subject, vertex)[:, session]
        x += np.float32(NOISE) * self._normals(4, place, FEATURES)
        return {"x": x}

    def _places(self, subject: np.ndarray, vertex: np.ndarray) -> np.ndarray:
        """A number for each measurement, `[subjects, SESSIONS, vertices]`."""
        series = subject[:, None] * SESSIONS + np.arange(SESSIONS)
        return series[..., None] * self.vertices + vertex

    def _normal(self, name: str, scale: float, shape: tuple[int, ...]) -> np.ndarray:
        """Draws of what is kept in memory."""
        key = [self.seed, 0, *name.encode()]
        return np.random.default_rng(key).normal(0.0, scale, shape).astype(np.float32)

    def _normals(self, stream: int, place: np.ndarray, count: int) -> np.ndarray:
        """Standard normal noise of each place, `[*places, count]`, by Box and Muller."""
        pairs = np.arange((count + 1) // 2, dtype=np.uint64)
        number = place.astype(np.uint64)[..., None] * np.uint64(len(pairs)) + pairs
        first, second = _uniforms(_hash(number, self.seed, stream))
        radius, angle = np.sqrt(-2.0 * np.log(first)), np.float32(2.0 * np.pi) * second
        both = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], -1)
        return both[..., :count]


def _hash(number: np.ndarray, seed: int, stream: int) -> np.ndarray:
    """64 random bits of each number (splitmix64's finaliser)."""
    z = number.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z += np.random.default_rng([seed, stream]).integers(2**63, dtype=np.uint64)
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


def _uniforms(bits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two uniform numbers in (0, 1) from 64 bits."""
    high, low = (bits >> np.uint64(40)), bits & np.uint64(0xFFFFFF)
    return tuple((part.astype(np.float32) + 0.5) * np.float32(2.0**-24) for part in (high, low))  # type: ignore[return-value]
