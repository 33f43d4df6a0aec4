"""What a run may begin with, and what it is told where that does not fit."""

import pytest

from jaxrl_llm.begin import begin
from jaxrl_llm.config import load
from jaxrl_llm.errors import UserError
from tests.tiny import Runs


def refusal(runs: Runs, name: str, *overrides: str) -> str:
    config = load(runs.config(name, runs.folder / "refused.yaml"), overrides)
    with pytest.raises(UserError) as found:
        begin(config)
    assert "mend:" in str(found.value)
    return str(found.value)


def test_a_policy_does_not_begin_as_a_reward_model(runs: Runs) -> None:
    assert "holds reward (scalar); this run trains policy (lm)" in refusal(runs, "dpo", f"init_from={runs('ranked')}")


def test_a_reward_model_begins_as_either(runs: Runs) -> None:
    for base in ("sft", "ranked"):
        config = load(runs.config("pointwise", runs.folder / "either.yaml"), [f"init_from={runs(base)}"])
        assert begin(config).initial is not None


def test_an_optimizer_of_another_role_or_of_other_weights_is_of_no_use(runs: Runs) -> None:
    assert "trained policy, and this run trains reward" in refusal(runs, "ranked", "init_optimizer=true")
    message = refusal(runs, "dpo", f"init_from={runs('sft_lora')}", "init_optimizer=true")
    assert "init_optimizer=false" in message
    assert "optim.kind=muon" not in message


def test_a_tokenizer_is_that_of_the_weights(runs: Runs, shared_data) -> None:  # type: ignore[no-untyped-def]
    other = f"tokenizer={{kind: huggingface, path: {shared_data}/stories260k}}"
    assert "tokenizer is not that of init_from" in refusal(runs, "dpo", other, "model.vocab_size=512")


def test_a_run_that_has_begun_needs_weights_only_for_a_reference(runs: Runs) -> None:
    for name in ("dpo", "simpo"):
        runs(name)
    start = begin(load(runs.config("dpo")))
    assert start.initial is not None
    assert start.initial.path.endswith("sft/checkpoints/4")
    assert begin(load(runs.config("simpo"))).initial is None


def test_a_score_starts_as_a_token_of_a_language_model(runs: Runs) -> None:
    none = "is a token of a language model, and init_from="
    assert none in refusal(runs, "ranked", "algo.from_token=e", f"init_from={runs('ranked')}")
    assert none in refusal(runs, "ranked", "algo.from_token=e", "init_from=null")
    assert "is 4 tokens of this tokenizer" in refusal(runs, "ranked", "algo.from_token=good")


def test_an_adapter_that_is_not_there_is_missed_before_the_run_begins(runs: Runs) -> None:
    assert "no adapter of PEFT's" in refusal(runs, "sft_lora", f"trainable.adapter={runs.folder}/none")
