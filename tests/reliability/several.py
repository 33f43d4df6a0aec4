"""`python -m tests.reliability.several CONFIG ...`: train these one after another, as one of several processes.

Which one, the environment says.  The digests of the batches that this process has a part of go to CONFIG.NUMBER.json,
what it has written to log_NUMBER beside the first config; see `audited`.
"""

import contextlib
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jax
import numpy as np

from jaxrl_llm import cli
from jaxrl_llm.data.source import DataSource
from jaxrl_llm.parallel import runtime
from jaxrl_llm.rollout.source import RolloutSource
from jaxrl_llm.types import TrainState
from tests.reliability.audited import audit
from tests.tiny import train

Digests = dict[str, dict[str, str]]  # step -> array and place of a shard in it -> digest


@contextlib.contextmanager
def recorded() -> Iterator[Digests]:
    """Of the batches that sources give here."""
    found: Digests = {}

    def watched(owner: type) -> Any:
        take = owner.next  # type: ignore[attr-defined]

        def next_batch(source: Any, state: TrainState) -> tuple[Any, dict[str, float]]:
            batch, metrics = take(source, state)
            found[str(int(state.step) + 1)] = {
                f"{jax.tree_util.keystr(path)} {shard.index}": hashlib.sha256(
                    np.asarray(shard.data).tobytes()
                ).hexdigest()
                for path, array in jax.tree_util.tree_leaves_with_path(batch)
                for shard in array.addressable_shards
            }
            return batch, metrics

        return patch.object(owner, "next", next_batch)

    with watched(DataSource), watched(RolloutSource):
        yield found


def run(configs: Sequence[str]) -> int:
    """All of them; 0."""
    runtime.start()
    audit(str(Path(configs[0]).with_name(f"log_{jax.process_index()}")))
    jax.config.update("jax_default_matmul_precision", "highest")
    with patch.object(runtime, "start"):
        for config in configs:
            with recorded() as found:
                train(Path(config), devices=8)
            Path(f"{config}.{jax.process_index()}.json").write_text(json.dumps(found))
    return 0


if __name__ == "__main__":
    with patch.object(cli, "_run_verb", run):
        sys.exit(cli.main())
