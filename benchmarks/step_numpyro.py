"""The rivals of `step_time` in NumPyro: a jitted ``svi.update``, and a ``lax.scan`` over many.

On one thread: XLA is told so before it starts, by its flags and, for the pool that runs the parts
of a program, by ``NPROC``. No torch is imported here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
if ONE_THREAD not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {ONE_THREAD}".strip()
os.environ.setdefault("NPROC", "1")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpyro  # noqa: E402
import numpyro.distributions as dist  # noqa: E402
from numpyro.distributions import constraints  # noqa: E402
from numpyro.infer import SVI, RenyiELBO, Trace_ELBO  # noqa: E402

from benchmarks.step_cases import FOLDS, LR, Case  # noqa: E402


class Planar(dist.transforms.Transform):
    """z + û tanh(w·z + b), û = u + (softplus(w·u) - 1 - w·u) w / |w|² (Rezende & Mohamed 2015).

    Args:
        w, u: (B, d).
        b: (B, 1).
    """

    domain: Any = constraints.real_vector
    codomain: Any = constraints.real_vector

    def __init__(self, w: jax.Array, u: jax.Array, b: jax.Array):
        inner = (w * u).sum(-1, keepdims=True)
        squared = (w * w).sum(-1, keepdims=True)
        self.w, self.b = w, b
        self.u = u + (jax.nn.softplus(inner) - 1 - inner) * w / squared

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.call_with_intermediates(x)[0]

    def call_with_intermediates(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The value, and log |det|, which needs the same tanh."""
        h = jnp.tanh((self.w * x).sum(-1, keepdims=True) + self.b)
        slope = (self.w * self.u).sum(-1)
        return x + self.u * h, jnp.log1p((1 - h[..., 0] ** 2) * slope)

    def log_abs_det_jacobian(self, x: Any, y: Any, intermediates: Any = None) -> jax.Array:
        """(B,), as it was computed with the value."""
        return intermediates

    def tree_flatten(self) -> Any:
        return (self.w, self.u, self.b), (("w", "u", "b"), {})


def svi_of(case: Case) -> SVI:
    """The model and the guide of a case with their objective; both take (x, index)."""
    d, start = case.latent, case.start

    def param(name: str) -> Any:
        return numpyro.param(name, jnp.asarray(start[name]))

    def own(name: str) -> Any:
        return param(f"decoder.{name}")

    def network(name: str, x: jax.Array, activation: Callable[[Any], Any]) -> jax.Array:
        names = [key.removesuffix("weight") for key in start if key.startswith(name)]
        names = [key for key in names if not key.endswith("bias")]
        for i, key in enumerate(names):
            x = activation(x) if i else x
            x = x @ param(f"{key}weight").T + param(f"{key}bias")
        return x

    def mixture(x: jax.Array) -> None:
        loc, lower = own("loc"), own("lower")
        L = jax.vmap(jnp.diag)(jnp.sqrt(jnp.exp(2 * own("log_scale")) + 1e-6))
        i, j = jnp.tril_indices(loc.shape[-1], -1)
        L = L.at[:, i, j].set(lower)
        parts = dist.MultivariateNormal(loc, scale_tril=L)
        whole = dist.MixtureSameFamily(dist.Categorical(logits=own("logits")), parts)
        with numpyro.plate("data", case.rows, subsample_size=case.batch):
            numpyro.sample("x", whole, obs=x)

    def model(x: jax.Array, index: jax.Array) -> None:
        if case.model == "gmm":
            mixture(x)
            return
        with numpyro.plate("data", case.rows, subsample_size=case.batch):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(d), 1.0).to_event(1))
            if case.model == "ppca":
                loc = z @ own("weight").T + own("mean")
                p = dist.Normal(loc, jnp.exp(own("log_scale")))
            else:
                p = dist.Bernoulli(logits=network("decoder", z, jnp.tanh))
            numpyro.sample("x", p.to_event(1), obs=x)

    def guide(x: jax.Array, index: jax.Array) -> None:
        if case.guide == "none":
            return
        if case.guide == "table":
            kappa = param("table.weight")[index]
        else:
            kappa = network("encoder", x, jax.nn.relu)
        q: Any = dist.Normal(kappa[:, :d], jax.nn.softplus(kappa[:, d : 2 * d])).to_event(1)
        if case.guide == "planar":
            parts = jnp.split(kappa[:, 2 * d :], FOLDS, -1)
            folds = [Planar(p[:, :d], p[:, d : 2 * d], p[:, 2 * d :]) for p in parts]
            q = dist.TransformedDistribution(q, folds)
        with numpyro.plate("data", case.rows, subsample_size=case.batch):
            numpyro.sample("z", q)

    several = case.particles > 1
    elbo = RenyiELBO(alpha=0, num_particles=case.particles) if several else Trace_ELBO()
    return SVI(model, guide, numpyro.optim.Adam(LR), elbo)


def rival(case: Case, scan: bool) -> Callable[[], None]:
    """A call that takes the steps of ``case.order``: one by one, or all in one ``lax.scan``.

    Raises:
        RuntimeError: a CUDA case where JAX sees no such device.
    """
    device = jax.devices("gpu" if case.device == "cuda" else "cpu")[0]
    data, order = jax.device_put((case.data, case.order), device)
    svi = svi_of(case)
    key = jax.device_put(jax.random.PRNGKey(0), device)
    state = jax.jit(svi.init)(key, data[order[0]], order[0])

    def update(state: Any, index: jax.Array, data: jax.Array) -> Any:
        return svi.update(state, data[index], index)

    one = jax.jit(update)
    whole = jax.jit(lambda s, rows, data: jax.lax.scan(lambda s, i: update(s, i, data), s, rows))
    rows = list(order)

    def run() -> None:
        nonlocal state
        if scan:
            state, losses = whole(state, order, data)
        else:
            for index in rows:
                state, losses = one(state, index, data)
        jax.block_until_ready((state, losses))

    return run
