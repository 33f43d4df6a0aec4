"""Hugging Face models as a user has them: imported, opened, trained on, exported; and what is refused."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxrl_llm
from jaxrl_llm.begin import begin
from jaxrl_llm.cli import main
from jaxrl_llm.config import load
from jaxrl_llm.data.chat import BUNDLED, find_template, tokenize_prompt
from jaxrl_llm.data.tokenizers import BytesTokenizer, save_tokenizer
from jaxrl_llm.evals.score import tokenize_answer
from jaxrl_llm.models.hf import write_model
from jaxrl_llm.models.llama import LlamaConfig, llama_specs
from jaxrl_llm.parallel.specs import map_specs
from jaxrl_llm.rollout.sampler import Sampler
from jaxrl_llm.rollout.sampling import SamplingConfig
from jaxrl_llm.saved import find_model, open_model
from jaxrl_llm.types import Head, ScoreScale
from tests.tiny import Runs, train

GOLDEN = Path(__file__).parent.parent / "golden" / "hf.npz"
MODEL = LlamaConfig(vocab_size=264, context=48, d_model=32, d_ff=48, n_layers=2, n_heads=4, n_kv_heads=2)
TRAIN = """
workdir: {workdir}
init_from: {source}
mesh: {{fsdp: 1, data: 8}}
data: {{path: {text}, length: 16, holdout: .2}}
training: {{steps: 1, batch_size: 8}}
schedule: {{kind: constant, lr: 1e-30}}
eval: {{every: 0}}
logging: {{tensorboard: false, quiet: true}}
"""


def make(directory: Path, head: Head = "lm", dtype: str = "float32") -> Path:
    """A small Hugging Face directory with a tokenizer of bytes."""
    directory.mkdir(parents=True)
    draw = np.random.default_rng(0).standard_normal
    params = map_specs(lambda spec: 0.2 * draw(spec.shape, np.float32), llama_specs(MODEL, head))
    special = {"bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 258}
    score = ScoreScale(bias=0.5, mean=-0.5, std=2.0) if head == "scalar" else None
    write_model(directory, MODEL, head, params, dtype=dtype, max_shard=10**9, special=special, score=score)  # type: ignore[arg-type]
    save_tokenizer(BytesTokenizer(), directory)
    return directory


def same_tensors(a: Path, b: Path) -> bool:
    left, right = ({k: x for f in d.glob("*.safetensors") for k, x in load_file(f).items()} for d in (a, b))
    assert left.keys() == right.keys()
    return all(left[k].dtype == right[k].dtype and left[k].tobytes() == right[k].tobytes() for k in left)


def refused(capsys: pytest.CaptureFixture[str], *command: str | Path) -> str:
    capsys.readouterr()
    assert main([str(word) for word in command]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert len(message.splitlines()) < 20
    return message


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("hf") / "source")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_import_then_export_is_the_identity(dtype: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, run, out = make(tmp_path / "source", dtype=dtype), tmp_path / "run", tmp_path / "out"
    assert main(["import", str(source), str(run)]) == 0
    assert "parameters (policy)" in capsys.readouterr().out
    assert {path.name for path in run.iterdir()} == {"config.yaml", "checkpoints"}
    opened = jaxrl_llm.load(run)
    assert (opened.config.model, opened.step, opened.config.workdir) == (MODEL, 0, str(run))
    assert opened.tokenizer.decode(opened.tokenizer.encode("grün")) == "grün"
    out.mkdir()  # an empty folder may be there
    assert main(["export", str(run), str(out), "--dtype", dtype, "--max-shard-size", "20kB"]) == 0
    assert same_tensors(source, out)
    assert len(list(out.glob("*.safetensors"))) > 1
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (out / name).read_bytes() == (source / name).read_bytes() or name == "generation_config.json"
    assert json.loads((out / "config.json").read_text())["eos_token_id"] == 257
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_hugging_face_directory_is_opened_as_a_run_is(source: Path, tmp_path: Path) -> None:
    assert main(["import", str(source), str(tmp_path / "run")]) == 0
    direct, imported = jaxrl_llm.load(source), jaxrl_llm.load(tmp_path / "run" / "checkpoints" / "0")
    jax.tree.map(np.testing.assert_array_equal, direct.params, imported.params)
    assert direct.config.model == imported.config.model
    assert direct.tokenizer.fingerprint == imported.tokenizer.fingerprint


def test_training_starts_from_a_hugging_face_directory(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At a rate that moves nothing, so that what is exported afterwards must be what was there before."""
    (tmp_path / "text.txt").write_text("All the same, it moves. " * 100)
    config = tmp_path / "train.yaml"
    config.write_text(TRAIN.format(workdir=tmp_path / "run", source=source, text=tmp_path / "text.txt"))
    assert main(["train", str(config)]) == 0
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "out")]) == 0
    assert same_tensors(source, tmp_path / "out")
    assert "model.n_layers: 2 there, 1 here" in refused(
        capsys, "train", config, f"workdir={tmp_path}/b", "model.n_layers=1"
    )
    assert "has no optimizer state" in refused(capsys, "train", config, f"workdir={tmp_path}/b", "init_optimizer=true")
    reward = make(tmp_path / "reward", "scalar")
    assert "holds reward (scalar); this run trains policy (lm)" in refused(
        capsys, "train", config, f"workdir={tmp_path}/b", f"init_from={reward}"
    )
    assert not (tmp_path / "b").exists()


def test_an_imported_run_trains_nothing_by_itself(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", str(source), str(tmp_path / "run")]) == 0
    saved = tmp_path / "run" / "config.yaml"
    assert main(["config", "show", str(saved)]) == 0
    assert "training.steps=0 trains nothing" in refused(capsys, "train", saved)
    assert "there is no data" in refused(capsys, "train", saved, "training.steps=3")


def test_reward_models_go_in_and_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, run, out = make(tmp_path / "source", "scalar"), tmp_path / "run", tmp_path / "out"
    assert main(["import", str(source), str(run)]) == 0
    opened = jaxrl_llm.load(run)
    assert (opened.head, opened.card.score) == ("scalar", ScoreScale(bias=0.5, mean=-0.5, std=2.0))
    rows, lengths = np.ones((2, 8), np.int32), np.asarray([8, 3])
    assert jax.jit(opened.model.score)(opened.params, rows, lengths).shape == (2,)
    for model in (source, run):
        assert "holds a reward model, no language model" in refused(capsys, "generate", model, "--prompt", "a")
    assert main(["export", str(run), str(out)]) == 0
    assert same_tensors(source, out)
    before, after = (json.loads((path / "config.json").read_text()) for path in (source, out))
    assert before == after
    assert after["pad_token_id"] == 258


def test_pad_of_a_reward_model_ends_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """transformers would read the score before a PAD that is the answer's EOS."""
    source = make(tmp_path / "source", "scalar")
    said = json.loads((source / "tokenizer_config.json").read_text())

    def exported(name: str, **tokens: str) -> int:
        (source / "tokenizer_config.json").write_text(json.dumps({**said, **tokens}))
        assert main(["export", str(source), str(tmp_path / name)]) == 0
        return json.loads((tmp_path / name / "config.json").read_text())["pad_token_id"]

    assert exported("pad_is_eos", pad_token="</s>") == 256
    (source / "tokenizer_config.json").write_text(json.dumps({**said, "pad_token": "</s>", "bos_token": "</s>"}))
    assert "needs a token to pad with" in refused(capsys, "export", source, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_what_cannot_be_imported_leaves_nothing(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert "has no config.json" in refused(capsys, "import", tmp_path / "nowhere", out)
    bad = make(tmp_path / "bad")
    weights = (bad / "model.safetensors").read_bytes()
    (bad / "model.safetensors").write_bytes(weights[:-10])
    assert "is cut short or damaged" in refused(capsys, "import", bad, out)
    whole = load_file(source / "model.safetensors")
    save_file(whole | {"model.norm.bias": whole["model.norm.weight"]}, bad / "model.safetensors")
    assert "model.norm.bias [32] is one too many" in refused(capsys, "import", bad, out)
    (bad / "model.safetensors").write_bytes(weights)
    raw = json.loads((bad / "config.json").read_text())
    (bad / "config.json").write_text(json.dumps(raw | {"vocab_size": 100}))
    assert "the tokenizer has 259 ids and the model only 100" in refused(capsys, "import", bad, out)
    (bad / "config.json").write_text(json.dumps(raw | {"num_attention_heads": 3, "num_key_value_heads": 2}))
    assert "config.json: model.n_kv_heads: 2 does not divide model.n_heads" in refused(capsys, "import", bad, out)
    for verb in ("import", "generate"):
        (bad / "config.json").write_text(json.dumps(raw | {"architectures": ["MambaForCausalLM"]}))
        message = refused(capsys, verb, bad, *([out] if verb == "import" else []))
        assert "'MambaForCausalLM' is not supported; supported: LlamaForCausalLM" in message
    assert {path.name for path in tmp_path.iterdir()} == {"bad"}


def test_nothing_is_overwritten(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for verb in ("import", "export"):
        for out in (tmp_path / "full", tmp_path / "file", tmp_path / "file" / "below"):
            assert refused(capsys, verb, source, out)
    assert (tmp_path / "full" / "mine.txt").read_text() == (tmp_path / "file").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 2
    for size in ("5XB", "0", "-1GB", "GB"):
        assert "--max-shard-size" in refused(capsys, "export", source, tmp_path / "out", f"--max-shard-size={size}")


@pytest.fixture(scope="module")
def base(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pretrained model as a Hugging Face directory."""
    out = tmp_path_factory.mktemp("base") / "hf"
    assert main(["export", str(runs("pretrain")), str(out)]) == 0
    return out


QUESTION = [{"role": "user", "content": "Who wrote Faust?"}]


def test_adapters_go_out_alone_or_added_in(
    runs: Runs, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the template that they were trained with, which is not the one that fits the tokenizer best."""
    config = runs.config("sft_lora", tmp_path / "lora.yaml", init_from=str(base))
    run, whole, adapter = train(config, "data.template=chatml"), tmp_path / "whole", tmp_path / "adapter"
    assert main(["export", str(run), str(whole)]) == 0
    assert main(["export", str(run), str(adapter), "--adapter"]) == 0
    assert "note" not in capsys.readouterr().out
    assert not same_tensors(whole, base)
    said = json.loads((adapter / "adapter_config.json").read_text())
    assert (said["base_model_name_or_path"], said["task_type"], said["r"]) == (str(base), "CAUSAL_LM", 4)
    ours, *theirs = (open_model(path) for path in (run, whole, adapter))
    for each in theirs:
        jax.tree.map(np.testing.assert_array_equal, ours.params, each.params)
        assert find_template(ours.tokenizer).source == BUNDLED["chatml"].read_text()
        # In transformers nothing but the template writes BOS; read by us again, there is one still.
        assert each.tokenizer.chat_template == "{{ bos_token }}" + BUNDLED["chatml"].read_text()
        prompts = [tokenize_prompt(x.tokenizer, find_template(x.tokenizer), QUESTION) for x in (ours, each)]
        assert prompts[0] == prompts[1]
        assert prompts[0].count(ours.tokenizer.bos_id) == 1
        assert each.tokenizer.stop_ids == ours.tokenizer.stop_ids
    assert find_model(adapter).config.init_from == str(base)
    assert find_model(adapter).fingerprint != find_model(base).fingerprint

    onward = begin(load(runs.config("sft", tmp_path / "onward.yaml", init_from=str(adapter))))
    jax.tree.map(np.testing.assert_array_equal, ours.params, onward.weights(ours.mesh)["policy"])
    assert "has no adapters of its own" in refused(capsys, "export", adapter, tmp_path / "b", "--adapter")

    def edited(**more: object) -> str:
        (adapter / "adapter_config.json").write_text(json.dumps(said | more))
        return refused(capsys, "generate", adapter)

    assert "names the base model 'meta/llama', which is no directory here" in edited(
        base_model_name_or_path="meta/llama"
    )
    assert "write there, as base_model_name_or_path," in edited(base_model_name_or_path=None)
    assert "names another adapter" in edited(base_model_name_or_path=str(adapter))
    assert "there is no run" in edited(base_model_name_or_path=str(tmp_path))
    assert "use_dora=True is not supported" in edited(use_dora=True)
    base.rename(adapter / "beside")  # it is found from the adapter too
    try:
        (adapter / "adapter_config.json").write_text(json.dumps(said | {"base_model_name_or_path": "beside"}))
        assert find_model(adapter).config.init_from == str(adapter / "beside")
    finally:
        (adapter / "beside").rename(base)


def test_a_reward_model_with_adapters(runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its base is a run, and has no head for scores: that is in the adapter."""
    config = runs.config("ranked", tmp_path / "reward.yaml")
    run, out = train(config, "trainable.kind=lora", "trainable.rank=2"), tmp_path / "out"
    assert main(["export", str(run), str(out), "--adapter"]) == 0
    printed = capsys.readouterr().out
    assert "is a run, which PEFT cannot open" in printed
    assert "how the scores lie (bias, mean, std) has no place in an adapter" in printed
    ours, theirs = jaxrl_llm.load(run), jaxrl_llm.load(out)
    assert (theirs.head, theirs.card.score) == ("scalar", None)
    jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)
    said = json.loads((out / "adapter_config.json").read_text())
    wrong = said | {"task_type": "CAUSAL_LM", "base_model_name_or_path": str(make(tmp_path / "judge", "scalar"))}
    (out / "adapter_config.json").write_text(json.dumps(wrong))
    assert "the adapter is of a language model, and its base" in refused(capsys, "export", out, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_scores_of_a_reward_model(runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the bias, the answers that were preferred score 0 on average; without the safety head, the same."""
    run = runs("reward")
    judge = jaxrl_llm.load(run)
    assert (judge.head, judge.card.score is None) == ("scalar+safety", False)
    examples = [json.loads(line) for line in Path(judge.config.data.path).read_text().splitlines()[:16]]  # type: ignore[arg-type]
    template = find_template(judge.tokenizer)
    texts = [
        tokenize_answer(
            ({"role": "user", "content": row["prompt"]},),
            ({"role": "assistant", "content": row["chosen"]},),
            judge.tokenizer,
            template,
        ).ids
        for row in examples
    ]
    tokens_BT = np.asarray([[*ids, *[0] * (64 - len(ids))] for ids in texts], np.int32)
    lengths_B = np.asarray([len(ids) for ids in texts], np.int32)
    scores = np.asarray(judge.model.score(judge.params, tokens_BT, lengths_B))
    scale = judge.card.score
    assert scale is not None
    assert abs(scores.mean()) > 1e-3  # or there is nothing to take off
    assert np.mean(scores + scale.bias) == pytest.approx(0, abs=1e-5)
    assert scores.std() == pytest.approx(scale.std, rel=1e-4)

    assert main(["export", str(run), str(tmp_path / "out")]) == 0
    assert "note: the safety head is left out" in capsys.readouterr().out
    again = jaxrl_llm.load(tmp_path / "out")
    assert (again.head, again.card.score) == ("scalar", scale)
    np.testing.assert_allclose(again.model.score(again.params, tokens_BT, lengths_B), scores, atol=1e-5)


def test_stories260k(shared_data: Path, tmp_path: Path) -> None:
    """Imported, it writes what it writes with transformers; exported, it is what it was."""
    source, run, out = shared_data / "stories260k", tmp_path / "run", tmp_path / "out"
    assert main(["import", str(source), str(run)]) == 0
    opened = open_model(run)
    sampler = Sampler(
        opened.model,
        opened.mesh,
        SamplingConfig(temperature=0.0),
        stop_ids=[],
        context=opened.config.model.context,
        slots=1,
    )
    found, _ = sampler(opened.params, [[opened.tokenizer.bos_id]], max_new_tokens=200, seed=0)
    ids = found[0][0].tokens
    assert ids == np.load(GOLDEN)["stories"].tolist()
    text = opened.tokenizer.decode(ids)
    assert text.startswith("Once upon a time, there was a little girl named Lily. She loved to play outside")
    assert main(["export", str(run), str(out)]) == 0
    assert same_tensors(source, out)
    for name in ("tokenizer.model", "tokenizer_config.json"):
        assert (out / name).read_bytes() == (source / name).read_bytes()
    assert find_model(out).config.model == find_model(source).config.model
