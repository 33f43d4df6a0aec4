"""What a backward pass holds on to, asked of JAX: the arrays that `jax.vjp` of the very loss closes over.

They are traced, never made: a model of 70B takes as long as a toy.  The rows of the trace have a prime number of
places, and there are a prime number of them, so that each array's size tells how it grows with rows and places: one
trace serves every size of a batch.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh

from jaxrl_llm.assemble import Assembly, assemble
from jaxrl_llm.config import Config
from jaxrl_llm.data.config import PromptDataConfig
from jaxrl_llm.parallel.mesh import WEIGHT_AXES, ways
from jaxrl_llm.parallel.specs import is_spec
from jaxrl_llm.plan.shapes import Remat, batch_of, fixed_weights, micro_batch, on_one_device
from jaxrl_llm.types import Params, Rollouts

PRIMES = (1009, 1013, 1019, 1021, 1031, 1033, 1039, 1049, 1051, 1061, 1063, 1069)


@dataclass(frozen=True)
class Kept:
    """Bytes on one device, as a polynomial in rows b and places T of a micro-batch there."""

    terms: Mapping[tuple[int, int], float]  # (power of b, power of T) -> bytes where b = T = 1

    def at(self, rows: int, length: int, fused: bool) -> int:
        """Bytes of so many rows; `fused` attention keeps nothing that grows with T x T."""
        return round(sum(n * rows**i * length**j for (i, j), n in self.terms.items() if not (fused and j > 1)))


@dataclass
class Traces:
    """Traces that were made, so that none is made twice."""

    made: dict[str, Kept] = dataclasses.field(default_factory=dict)

    def __call__(self, config: Config, mesh: Mesh, role: str, remat: Remat) -> Kept:
        """What the gradient of one role's weights keeps on one device of the mesh."""
        tensor, gathered = mesh.shape["tensor"], ways(mesh, WEIGHT_AXES) > 1 and remat == "none"
        local = on_one_device(config, tensor, remat)
        sections = (local.model, local.critic.model, local.compute, local.algo, local.trainable, local.data)
        key = repr((role, gathered, sections))
        if key not in self.made:
            self.made[key] = trace(local, role, gathered)
        return self.made[key]


def trace(config: Config, role: str, gathered: bool) -> Kept:
    """See `Traces`.  `gathered`: weights are put together for use, and what was put together is kept as well."""
    parts = assemble(config, jax.devices()[:1])
    prime, length = _primes(parts)
    rows = prime * config.compute.loss_chunks  # all pieces of the unembedding are full
    data = config.data
    if isinstance(data, PromptDataConfig):  # the same T for both, as far as shapes tell them apart
        config = dataclasses.replace(config, data=dataclasses.replace(data, pretrain_length=length))
    params, fixed = parts.template.params, fixed_weights(parts)
    batch = batch_of(config, parts, 1, rows, length)
    if parts.algo.prepare is not None and parts.algo.consumes is not Rollouts:  # those were prepared by their source
        batch = jax.eval_shape(parts.algo.prepare, parts.roles(params, fixed), batch)
    batch = micro_batch(batch)

    def kept(params: Params, fixed: Params, batch: Any) -> list[Any]:
        def objective(trained: Params) -> list[Any]:
            terms, _ = parts.algo.loss(parts.roles({**params, role: trained}, fixed), batch)
            return [mean.total for mean in terms.values()]

        _, backward = jax.vjp(objective, params[role])
        there = {id(x) for x in jax.tree.leaves(batch if gathered else (params, fixed, batch))}
        found = {id(x): x for x in jax.tree.leaves(backward) if id(x) not in there}
        return list(found.values())

    terms: dict[tuple[int, int], float] = {}
    for x in jax.eval_shape(kept, params, fixed, batch):
        powers = _power(x.size, prime), _power(x.size, length)
        terms[powers] = terms.get(powers, 0.0) + x.size * x.dtype.itemsize / (rows ** powers[0] * length ** powers[1])
    return Kept(terms)


def _primes(parts: Assembly) -> tuple[int, int]:
    """Two that divide no dimension of the weights."""
    specs = [spec for model in parts.models.values() for spec in jax.tree.leaves(model.specs, is_leaf=is_spec)]
    dims = {dim for spec in specs for dim in spec.shape}
    first, second, *_ = (p for p in PRIMES if all(dim % p for dim in dims))
    return first, second


def _power(n: int, prime: int) -> int:
    power = 0
    while n and n % prime == 0:
        n, power = n // prime, power + 1
    return power
