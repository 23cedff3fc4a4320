"""The hosts' own objects: NumPyro guide and model, TFP surrogate and joint distribution.

Both are held against `pavi.guide` and `pavi.objective` on the same weights and noise: on nested
ragged plates with missing data, dense ones and crossed ones; full batches and reduced ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from host_cases import CASES, DTYPE, FAMILIES, MODELS, Case, case, effects, improper, initial

from pavi import guide, objective
from pavi.batch import Batch
from pavi.family import Family
from pavi.lowering import lower
from pavi.subsampling import full_batch


def params_of(c: Case) -> dict[str, np.ndarray]:
    tables = {f"pavi/{name}/table": table for name, table in c.tables.items()}
    return {f"pavi/{name}": weight for name, weight in c.weights.items()} | tables


class TestNumPyro:
    @pytest.fixture(autouse=True)
    def _host(self) -> None:
        pytest.importorskip("numpyro")

    def pair(self, c: Case) -> tuple[Any, Any]:
        from pavi.backends.numpyro.guide import make_guide
        from pavi.backends.numpyro.model import make_model

        return make_model(c.graph), make_guide(c.plan, c.weights, c.tables)

    def with_noise(self, c: Case, fn: Any, noise: dict[str, np.ndarray]) -> Any:
        """`fn` with the noise of the first draw at its auxiliary sites."""
        from numpyro import handlers

        from pavi.backends.numpyro.model import Layout

        layout = Layout.of(c.graph)
        sites = {
            f"pavi/{block.name}": layout.to_site(noise[block.name][0], block.axes)
            for block in c.plan.blocks
        }
        return handlers.substitute(fn, data=sites)

    @pytest.mark.parametrize(("model", "family", "reduced"), CASES)
    def test_loss_is_the_negative_elbo(self, model: str, family: str, reduced: bool) -> None:
        import jax
        from numpyro.infer import Trace_ELBO

        from pavi.backends.numpyro.distributions import log_prob

        c = case(model, family, reduced)
        host_model, host_guide = self.pair(c)

        @jax.jit
        def both(params: Any, weights: Any, rows: Any, noise: Any, batch: Batch) -> Any:
            guided = self.with_noise(c, host_guide, noise)
            loss = Trace_ELBO().loss(jax.random.key(0), params, host_model, guided, batch)
            elbo = objective.elbo_samples(c.plan, log_prob, weights, rows, noise, batch)
            return loss, elbo[0]

        loss, elbo = both(params_of(c), c.weights, c.rows(), c.noise(1), c.batch)
        np.testing.assert_allclose(-loss, elbo, rtol=2e-5)

    @pytest.mark.parametrize("model", MODELS)
    def test_sites_plates_and_params(self, model: str) -> None:
        import warnings

        import jax
        from numpyro import handlers
        from numpyro.util import _validate_model, check_model_guide_match

        c = case(model)
        host_model, host_guide = self.pair(c)

        def check(batch: Batch) -> None:
            seeded = handlers.seed(host_guide, jax.random.key(0))
            guide_trace = handlers.trace(seeded).get_trace(batch)
            replayed = handlers.replay(handlers.seed(host_model, jax.random.key(1)), guide_trace)
            model_trace = handlers.trace(replayed).get_trace(batch)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                check_model_guide_match(model_trace, guide_trace)
                _validate_model(model_trace, plate_warning="error")
            params = {name for name, site in guide_trace.items() if site["type"] == "param"}
            assert params == set(params_of(c))
            for name, site in model_trace.items():
                if site["type"] == "sample":
                    frames = {frame.name for frame in site["cond_indep_stack"]}
                    assert frames == set(c.graph.variables[name].plates)

        jax.eval_shape(check, c.batch)

    def test_svi_decreases_the_loss_on_new_batches(self) -> None:
        import jax
        import optax
        from numpyro.infer import SVI, Trace_ELBO

        c = case("nested", "plain", True)
        other = case("nested", "plain")
        svi = SVI(*self.pair(c), optax.adam(3e-2), Trace_ELBO(num_particles=4))
        state = svi.init(jax.random.key(0), c.batch)
        evaluate, update = jax.jit(svi.evaluate), jax.jit(svi.update)
        before = evaluate(state, other.batch)
        for _ in range(150):
            state, loss = update(state, c.batch)
        assert np.isfinite(loss)
        for _ in range(150):
            state, loss = update(state, other.batch)
        assert evaluate(state, other.batch) < before - 10.0
        moved = svi.get_params(state)
        fixed = {f"pavi/{name}" for name in c.fixed}
        start = svi.get_params(svi.init(jax.random.key(0), c.batch))
        assert {k for k, v in start.items() if np.array_equal(moved[k], v)} == fixed

    def test_predictive(self) -> None:
        import jax
        from numpyro.infer import Predictive

        c = case("dense")
        host_model, host_guide = self.pair(c)
        draws = Predictive(host_guide, params=params_of(c), num_samples=6)(
            jax.random.key(0), c.batch
        )
        assert draws["subject_effect"].shape == (6, 4, 1)
        assert draws["both"].shape == (6, 4, 3)
        unseen = c.batch._replace(values={k: v for k, v in c.batch.values.items() if k != "x"})
        posterior = {v.name: draws[v.name] for v in c.graph.latents}
        predicted = Predictive(host_model, posterior)(jax.random.key(1), unseen)
        assert predicted["x"].shape == (6, 4, 3)
        assert np.all(np.abs(predicted["x"] - draws["both"]) < 3.0)
        both = Predictive(host_model, guide=host_guide, params=params_of(c), num_samples=6)
        np.testing.assert_array_equal(both(jax.random.key(2), c.batch)["y"][0], c.batch.values["y"])

    def test_hosts_own_guide_and_sampler_run_on_the_model(self) -> None:
        import jax
        import optax
        from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO
        from numpyro.infer.autoguide import AutoNormal

        c = case("dense")
        host_model, _ = self.pair(c)
        mcmc = MCMC(NUTS(host_model), num_warmup=50, num_samples=20, progress_bar=False)
        mcmc.run(jax.random.key(0), c.batch)
        assert mcmc.get_samples()["both"].shape == (20, 4, 3)
        stock = AutoNormal(host_model)
        svi = SVI(host_model, stock, optax.adam(1e-2), Trace_ELBO())
        result = svi.run(jax.random.key(0), 5, c.batch, progress_bar=False)
        assert np.isfinite(result.losses).all()

    def test_log_density_of_the_model(self) -> None:
        from numpyro.infer.util import log_density

        from pavi.backends.numpyro.distributions import log_prob
        from pavi.backends.numpyro.model import Layout
        from pavi.model import log_terms

        c = case("nested", reduced=True)
        host_model, _ = self.pair(c)
        draw = guide.sample(c.plan, c.weights, c.rows(), c.noise(1), c.batch)
        wanted = sum(log_terms(c.graph, log_prob, draw.values, c.batch).values())
        layout = Layout.of(c.graph)
        values = {
            name: layout.to_site(value[0], c.graph.variables[name].plates)
            for name, value in draw.values.items()
        }
        density, _ = log_density(host_model, (c.batch,), {}, values)
        np.testing.assert_allclose(density, wanted[0], rtol=1e-5)

    def test_improper_prior(self) -> None:
        import jax
        from numpyro.infer import MCMC, NUTS

        graph, data = improper()
        bound = data.bind(graph)
        c = Case(lower(graph, Family(), bound.sizes), {}, {}, full_batch(bound, DTYPE))
        host_model, _ = self.pair(c)
        mcmc = MCMC(NUTS(host_model), num_warmup=20, num_samples=5, progress_bar=False)
        mcmc.run(jax.random.key(0), c.batch)
        samples = mcmc.get_samples()
        assert samples["cut"].shape == (5, 3)
        assert samples["level"].shape == (5, 4)
        assert np.all(np.diff(samples["cut"]) > 0)


class TestTFP:
    @pytest.fixture(autouse=True)
    def _host(self) -> None:
        pytest.importorskip("tensorflow_probability")

    def surrogate(self, c: Case) -> Any:
        from pavi.backends.tfp.guide import make_surrogate

        return make_surrogate(c.plan, c.weights, c.tables, c.batch)

    @pytest.mark.parametrize(("model", "family", "reduced"), CASES)
    def test_log_probs_are_the_guides_and_the_models(
        self, model: str, family: str, reduced: bool
    ) -> None:
        import tensorflow as tf

        from pavi.backends.tfp.distributions import log_prob
        from pavi.backends.tfp.model import as_tensors, make_joint_log_prob
        from pavi.model import log_terms

        c = case(model, family, reduced)
        draw = guide.sample(c.plan, c.weights, c.rows(), c.noise(3), c.batch)
        wanted = guide.weighted_log_prob(c.plan, draw, c.batch)
        np.testing.assert_allclose(
            self.surrogate(c).log_prob(draw.values), wanted, rtol=1e-4, atol=1e-4
        )
        values = {k: tf.constant(v, tf.float32) for k, v in draw.values.items()}
        terms = log_terms(c.graph, log_prob, values, as_tensors(c.batch))
        target = make_joint_log_prob(c.graph, c.batch)
        np.testing.assert_allclose(target(**draw.values), sum(terms.values()), rtol=1e-4)

    @pytest.mark.parametrize("model", MODELS)
    def test_is_a_joint_distribution_named_by_latents(self, model: str) -> None:
        import tensorflow as tf
        import tensorflow_probability as tfp

        from pavi.backends.tfp.model import make_joint_log_prob

        c = case(model, reduced=True)
        surrogate = self.surrogate(c)
        assert isinstance(surrogate, tfp.distributions.JointDistribution)
        shapes = {
            v.name: (*(c.sizes[plate] for plate in v.plates), *v.event) for v in c.graph.latents
        }
        assert {k: tuple(v) for k, v in surrogate.event_shape.items()} == shapes
        tensors = surrogate.event_shape_tensor()
        assert {k: tuple(v.numpy()) for k, v in tensors.items()} == shapes
        assert set(surrogate.dtype.values()) == {tf.float32}
        assert surrogate.batch_shape == ()
        with tf.GradientTape() as tape:
            draws, log_q = surrogate.experimental_sample_and_log_prob((2, 3), seed=(1, 2))
            elbo = tf.reduce_sum(make_joint_log_prob(c.graph, c.batch)(draws) - log_q)
        assert {k: tuple(v.shape) for k, v in draws.items()} == {
            k: (2, 3, *shape) for k, shape in shapes.items()
        }
        np.testing.assert_allclose(surrogate.log_prob(draws), log_q, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(surrogate.log_prob(**draws), log_q, rtol=1e-4, atol=1e-4)
        again = surrogate.sample((2, 3), seed=(1, 2))
        assert all(np.array_equal(again[name], draws[name]) for name in draws)
        assert surrogate.sample(seed=5).keys() == draws.keys()
        total = len(c.weights) + len(c.tables)
        assert len(surrogate.trainable_variables) == total - len(c.fixed)
        gradients = tape.gradient(elbo, surrogate.trainable_variables)
        assert all(g is not None for g in gradients)
        copied = surrogate.copy()
        assert {id(v) for v in copied.variables} == {id(v) for v in surrogate.variables}
        with pytest.raises(NotImplementedError, match="jointly dense"):
            surrogate.log_prob_parts(draws)
        with pytest.raises(NotImplementedError, match="jointly dense"):
            surrogate.sample(value={next(iter(draws)): 0.0})

    @pytest.mark.parametrize("model", MODELS)
    def test_joint_distribution(self, model: str) -> None:
        from pavi.backends.tfp.model import make_joint_distribution, make_joint_log_prob

        c = case(model, reduced=True)
        joint = make_joint_distribution(c.graph, c.batch)
        drawn = joint.sample(4, seed=(1, 2))
        assert joint.log_prob(drawn).shape == (4,)
        names = [v.name for v in (*c.graph.latents, *c.graph.observed)]
        assert sorted(drawn._asdict()) == sorted(names)
        pinned = joint.experimental_pin(
            **{v.name: c.batch.values[v.name] for v in c.graph.observed}
        )
        latents = {v.name: getattr(drawn, v.name) for v in c.graph.latents}
        target = make_joint_log_prob(c.graph, c.batch)
        np.testing.assert_allclose(
            pinned.unnormalized_log_prob(**latents), target(latents), rtol=1e-5
        )
        bijector = pinned.experimental_default_event_space_bijector()
        part = pinned.sample_unpinned(4, seed=(3, 4))
        back = bijector.forward(bijector.inverse(part))
        for name, value in part._asdict().items():
            np.testing.assert_allclose(getattr(back, name), value, rtol=1e-4, atol=1e-5)

    def test_improper_prior(self) -> None:
        from pavi.backends.tfp.model import make_joint_distribution

        graph, data = improper()
        joint = make_joint_distribution(graph, full_batch(data.bind(graph), DTYPE))
        drawn = joint.sample(3, seed=(1, 2))
        assert drawn.cut.shape == (3, 3)
        assert np.all(np.diff(drawn.cut) > 0)
        assert np.all(np.isfinite(joint.log_prob(drawn)))

    def test_stock_inference_reaches_the_exact_posterior(self) -> None:
        import tensorflow as tf
        import tensorflow_probability as tfp
        import tf_keras

        from pavi.backends.tfp.guide import make_surrogate
        from pavi.backends.tfp.model import make_joint_log_prob

        graph, data = effects()
        bound = data.bind(graph)
        plan = lower(graph, FAMILIES["plain"], bound.sizes)
        c = initial(plan, full_batch(bound, DTYPE), 0.0)
        surrogate = make_surrogate(c.plan, c.weights, c.tables, c.batch)
        target = make_joint_log_prob(graph, c.batch)
        losses = tfp.vi.fit_surrogate_posterior(
            target,
            surrogate,
            optimizer=tf_keras.optimizers.Adam(
                tf_keras.optimizers.schedules.CosineDecay(0.05, 1000)
            ),
            num_steps=1000,
            sample_size=16,
            seed=(1, 1),
            jit_compile=True,
        )
        # x_g ~ N(0, mu's 1 + theta's 1 + noise's 1), any two of them with covariance 1
        x = np.asarray(data.values["x"])
        covariance = np.ones((len(x), len(x))) + 2.0 * np.eye(len(x))
        _, log_det = np.linalg.slogdet(2.0 * np.pi * covariance)
        evidence = -0.5 * (log_det + x @ np.linalg.solve(covariance, x))
        assert float(losses[0]) > -evidence + 0.1

        @tf.function(jit_compile=True)
        def compiled(seed: Any) -> Any:
            return surrogate.experimental_sample_and_log_prob(4000, seed=seed)

        draws, log_q = compiled(tf.constant([1, 2]))
        np.testing.assert_allclose(np.mean(target(draws) - log_q), evidence, atol=0.01)
        np.testing.assert_allclose(surrogate.log_prob(draws), log_q, rtol=1e-4, atol=1e-4)
