"""Checkpoints: one atomic, asynchronous commit of weights, optimizer, data position, config and tokenizer.

WORKDIR/checkpoints/STEP/ holds the items `params`, `ema`, `opt_state`, `fixed`, `arrays` (the source's), and `run`
(JSON: the source's state, the config's text, the tokenizer).  Weights are an item of their own so that they can be read
alone.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxrl_llm.errors import StorageFailed, UserError
from jaxrl_llm.training.config import CheckpointConfig
from jaxrl_llm.types import Json, Params, TrainState

ARRAY_ITEMS = ("params", "ema", "opt_state", "fixed", "arrays")


class Saved(NamedTuple):
    """What a checkpoint gives back."""

    state: TrainState
    source: Json
    arrays: Params


class Checkpoints:
    """The checkpoints of one run directory; without a config they are only read."""

    def __init__(self, workdir: Path, config: CheckpointConfig | None):
        self.path = Path(os.path.abspath(workdir)) / "checkpoints"
        read_only = config is None
        if read_only and not self.path.is_dir():
            raise UserError(f"no checkpoints in {workdir}: {self.path} is not there")
        options = ocp.CheckpointManagerOptions(
            max_to_keep=config.keep_last if config else None,
            keep_period=config.keep_every if config else None,
            read_only=read_only,
            create=not read_only,
            enable_async_checkpointing=not read_only,
            cleanup_tmp_directories=not read_only,
        )
        handlers = {name: ocp.StandardCheckpointHandler() for name in ARRAY_ITEMS}
        self._manager = ocp.CheckpointManager(
            self.path, options=options, item_handlers={**handlers, "run": ocp.JsonCheckpointHandler()}
        )

    def steps(self) -> list[int]:
        """Steps that are there and whole."""
        return sorted(self._manager.all_steps())

    def latest(self) -> int | None:
        """The newest step, or None."""
        return self._manager.latest_step()

    def save(self, state: TrainState, source: tuple[Json, Params], run: Json) -> None:
        """Begins to save, after the last save has ended; returns when the state has been copied off the devices."""
        source_json, arrays = source
        items = {**_items(state), "arrays": arrays}
        saves: dict[str, Any] = {name: ocp.args.StandardSave(tree) for name, tree in items.items() if _leaves(tree)}
        record = {**run, "source": source_json, "step": int(state.step)}
        try:
            self._manager.save(int(state.step), args=ocp.args.Composite(**saves, run=ocp.args.JsonSave(record)))
        except (OSError, ValueError) as error:  # also that of the save before, which ran in the background
            raise StorageFailed(f"a checkpoint in {self.path} was not written: {_first_line(error)}") from error

    def wait(self) -> None:
        """Until everything is on disk."""
        try:
            self._manager.wait_until_finished()
        except (OSError, ValueError) as error:
            raise StorageFailed(f"a checkpoint in {self.path} was not written: {_first_line(error)}") from error

    def close(self) -> None:
        """Waits, then frees the manager's threads."""
        self.wait()
        self._manager.close()

    def run_json(self, step: int) -> Json:
        """The JSON item: config text, tokenizer, the source's state."""
        return self._restore(step, run=ocp.args.JsonRestore())["run"]

    def restore(self, step: int, template: TrainState) -> Saved:
        """The whole state into the template's shapes and shardings (arrays or ShapeDtypeStructs)."""
        items = _items(template).items()
        args = {name: ocp.args.StandardRestore(_abstract(tree)) for name, tree in items if _leaves(tree)}
        run = self.run_json(step)
        if run["source"].get("arrays"):
            shapes = {k: np.zeros(v["shape"], v["dtype"]) for k, v in run["source"]["arrays"].items()}
            args["arrays"] = ocp.args.StandardRestore(shapes)
        got = self._restore(step, **args)
        step_array = jax.device_put(np.int32(step), template.step.sharding)
        state = TrainState(
            step=step_array,
            params=got["params"],
            fixed=got.get("fixed") or {},
            opt_state=got["opt_state"],
            ema=got.get("ema") or {},
        )
        return Saved(state=state, source=run["source"], arrays=got.get("arrays") or {})

    def restore_item(self, step: int, name: str, template: Params) -> Params:
        """One item alone (the weights, say), into the template's shapes and shardings."""
        return self._restore(step, **{name: ocp.args.StandardRestore(_abstract(template))})[name]

    def read_all(self, step: int, template: TrainState) -> Iterator[tuple[str, np.ndarray]]:
        """Every array of a checkpoint in turn, whole, with its name: "params.policy.embed".

        The optimizer's state is not asked for at step 0, where an imported model has none.

        Raises:
            UserError: one cannot be read, or is not as the template says; names the damaged file.
        """
        trees = {**_items(template), **({} if step else {"opt_state": {}})}
        arrays = self.run_json(step)["source"].get("arrays") or {}
        trees["arrays"] = {k: jax.ShapeDtypeStruct(v["shape"], v["dtype"]) for k, v in arrays.items()}
        handler = ocp.PyTreeCheckpointHandler()
        for item, tree in trees.items():
            folder, (leaves, structure) = self.path / str(step) / item, jax.tree_util.tree_flatten_with_path(tree)
            for place, (path, leaf) in enumerate(leaves):
                name = ".".join((item, *(str(getattr(key, "key", getattr(key, "name", key))) for key in path)))
                alone = jax.tree.unflatten(structure, [leaf if i == place else ... for i in range(len(leaves))])
                how = jax.tree.map(lambda _: ocp.ArrayRestoreArgs(restore_type=np.ndarray), alone)
                try:
                    args = ocp.args.PyTreeRestore(item=alone, restore_args=how)
                    found = [x for x in jax.tree.leaves(handler.restore(folder, args=args)) if x is not ...]
                except (OSError, ValueError, KeyError) as error:
                    raise UserError(
                        f"{_damaged_file(error, folder)}: {name} cannot be read: {_first_line(error)}"
                    ) from error
                if len(found) != 1 or found[0].shape != leaf.shape:
                    raise UserError(f"{folder}: {name} is not there as {leaf.dtype} {list(leaf.shape)}")
                yield name, found[0]

    def _restore(self, step: int, **args: Any) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**args))
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"the checkpoint {self.path / str(step)} cannot be read as this run's: {_first_line(error)}\n"
                "  It is damaged, or was made by a model of another shape; an older step may be whole."
            ) from error


def _items(state: TrainState) -> dict[str, Params]:
    """What of a state is saved, by the name of the item."""
    return {"params": state.params, "ema": state.ema, "opt_state": state.opt_state, "fixed": state.fixed}


def _leaves(tree: Any) -> bool:
    return bool(jax.tree.leaves(tree))


def _abstract(tree: Any) -> Any:
    return jax.tree.map(
        lambda x: (
            x
            if isinstance(x, (np.ndarray, jax.ShapeDtypeStruct))
            else jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
        ),
        tree,
    )


def _damaged_file(error: Exception, folder: Path) -> str:
    """The innermost file that an error speaks of."""
    return (re.findall(r'local file "([^"]+)"', str(error)) or [str(folder)])[-1]


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0].partition(" [tensorstore_spec")[0][:300]
