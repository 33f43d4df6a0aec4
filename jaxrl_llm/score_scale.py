"""How a reward model's scores lie on reference answers: bias and standard deviation, stored with the model.

Differences of scores mean something, their level nothing: it is where training happened to leave it.  So the answers
that people preferred are given the mean 0 (Stiennon et al., arXiv 2009.01325).
"""

from collections.abc import Mapping

import numpy as np

from jaxrl_llm.assemble import Assembly
from jaxrl_llm.config import Config
from jaxrl_llm.data.config import PreferenceDataConfig
from jaxrl_llm.data.preferences import Where, eval_groups
from jaxrl_llm.data.sequences import SequenceStore
from jaxrl_llm.heldout import Judge
from jaxrl_llm.types import Pairs, ScoreScale, TrainState


def measure_scale(
    config: Config, parts: Assembly, stores: Mapping[str, SequenceStore], state: TrainState, judge: Judge
) -> ScoreScale:
    """The scale from the best (or wanted) answers to the first `eval.scale_prompts` prompts, as many of each corpus."""
    data = config.data
    assert isinstance(data, PreferenceDataConfig)
    state = parts.shown(state)
    weights = parts.roles(state.params, state.fixed)
    found = []
    for store in stores.values():
        with_one = None if parts.algo.consumes is Pairs else np.flatnonzero(store.label == 1)
        for batch, where in eval_groups(
            store,
            data,
            noun=parts.algo.consumes,
            head=parts.algo.trained["reward"],
            batch_size=config.training.batch_size // config.training.micro_batches,
            sharding=parts.rows_sharding,
            max_rows=-(-config.eval.scale_prompts // len(stores)),
            examples=with_one,
        ):
            score_N = np.asarray(judge(weights, batch)[2])
            found.append(score_N[is_reference(store, where, ranked=isinstance(batch, Pairs))])
    scores = np.concatenate(found).astype(np.float64)
    mean, std = float(scores.mean()), float(scores.std())
    return ScoreScale(bias=-mean, mean=mean, std=max(std, 1e-6))


def is_reference(store: SequenceStore, where: Where, ranked: bool) -> np.ndarray:
    """[N]: whether a slot holds an answer that was preferred to the others, or wanted."""
    filled_N = where.answer_N >= 0
    good_N = store.ranks[where.answer_N] == 0 if ranked else store.label[where.example_N] == 1
    return filled_N & good_N
