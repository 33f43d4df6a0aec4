"""Where each of our weights stands in a Hugging Face checkpoint: its names there, and its shape, by its ParamSpec.

The same names serve all families; which of them a model has is decided by its spec tree.  A foreign tensor is one
layer, its outputs before its inputs, heads and channels in one axis: our wq [L, D, H, C] is L tensors [H·C, D].
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import numpy as np

from jaxrl_llm.parallel.specs import ParamSpec, is_spec
from jaxrl_llm.types import Params

EMBED, UNEMBED = "model.embed_tokens.weight", "lm_head.weight"

NAMES: Mapping[str, str] = {
    "embed": EMBED,
    "layers.attn_norm": "model.layers.{}.input_layernorm.weight",
    "layers.wq": "model.layers.{}.self_attn.q_proj.weight",
    "layers.wk": "model.layers.{}.self_attn.k_proj.weight",
    "layers.wv": "model.layers.{}.self_attn.v_proj.weight",
    "layers.wo": "model.layers.{}.self_attn.o_proj.weight",
    "layers.bq": "model.layers.{}.self_attn.q_proj.bias",
    "layers.bk": "model.layers.{}.self_attn.k_proj.bias",
    "layers.bv": "model.layers.{}.self_attn.v_proj.bias",
    "layers.q_norm": "model.layers.{}.self_attn.q_norm.weight",
    "layers.k_norm": "model.layers.{}.self_attn.k_norm.weight",
    "layers.mlp_norm": "model.layers.{}.post_attention_layernorm.weight",
    "layers.w_gate": "model.layers.{}.mlp.gate_proj.weight",
    "layers.w_up": "model.layers.{}.mlp.up_proj.weight",
    "layers.w_down": "model.layers.{}.mlp.down_proj.weight",
    "final_norm": "model.norm.weight",
    "unembed": UNEMBED,
    "score": "score.weight",
}


@dataclass(frozen=True)
class Place:
    """One of our weights in a checkpoint: a tensor a layer, or a single one where the weight has no layers."""

    spec: ParamSpec
    names: tuple[str, ...]

    @property
    def stacked(self) -> bool:
        """Whether our weight has an axis of layers, which then is the first."""
        return self.spec.axes[0] == "layers"

    @property
    def groups(self) -> list[list[int]]:
        """Our axes, the layers' aside, as those of the foreign tensor: outputs, inputs, channels with their heads."""
        axes = self.spec.axes
        inside = range(int(self.stacked), len(axes))
        outputs = [i for i in inside if axes[i] not in self.spec.inputs]
        groups: list[list[int]] = []
        for i in [*outputs, *(i for i in inside if axes[i] in self.spec.inputs)]:
            if axes[i] == "channels":
                groups[-1].append(i)
            else:
                groups.append([i])
        return groups

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the foreign tensor."""
        return tuple(math.prod(self.spec.shape[i] for i in group) for group in self.groups)

    def to_foreign(self, weight: np.ndarray) -> np.ndarray:
        """One layer of our weight, as the foreign tensor."""
        return weight.transpose(self._order).reshape(self.shape)

    def to_ours(self, piece: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """A piece of the foreign tensor, cut out by `foreign_slices`, as that piece of our layer, of this shape."""
        return piece.reshape([shape[i] for i in self._order]).transpose(np.argsort(self._order))

    def foreign_slices(self, index: tuple[slice, ...]) -> tuple[slice, ...]:
        """What to cut out of a foreign tensor for this part of our whole weight.  Channels are never split."""

        def one(group: list[int]) -> slice:
            scale = math.prod(self.spec.shape[i] for i in group[1:])
            first = index[group[0]]
            return slice(first.start * scale, first.stop * scale)

        return tuple(map(one, self.groups))

    @property
    def _order(self) -> list[int]:
        """Our axes of one layer, counted without the layers' axis, in foreign order."""
        return [i - self.stacked for group in self.groups for i in group]


def places(specs: Params, names: Mapping[str, str] = NAMES) -> Params:
    """The tree of Places for a tree of ParamSpecs; `names` is by the path in it, with {} for the number of a layer."""

    def one(path: tuple, spec: ParamSpec) -> Place:
        name = names[jax.tree_util.keystr(path, simple=True, separator=".")]
        layers = range(spec.shape[0]) if spec.axes[0] == "layers" else (None,)
        return Place(spec, tuple(name.format(layer) for layer in layers))

    return jax.tree_util.tree_map_with_path(one, specs, is_leaf=is_spec)


def is_place(leaf: object) -> bool:
    """For `is_leaf=`."""
    return isinstance(leaf, Place)
