"""tokenizer.json and Hugging Face directories: exact ids, special tokens, round trips, refusal of what is broken."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jaxrl_llm.data.config import BytesConfig, HuggingFaceConfig, JsonConfig
from jaxrl_llm.data.tokenizers import (
    BytesTokenizer,
    JsonTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    load_tokenizer,
    make_tokenizer,
    save_tokenizer,
    tokenizer_from_json,
    train_sentencepiece,
)
from jaxrl_llm.errors import UserError
from jaxrl_llm.tasks import corpus
from tests.golden.chat_cases import KINDS, TEXTS, tokenizer_files

GOLDEN = json.loads((Path(__file__).parent.parent / "golden" / "chat.json").read_text(encoding="utf-8"))
AWKWARD = ["", " ", "\n\n", "\r\n", "größe 你好 🎉", "a\x00b", "<s></s>", "a <|im_end|>\n<unk>", "▁x", "\ue000 0\ue001"]

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """write(kind, edit, **config): a directory with a small tokenizer; `edit` changes tokenizer.json's object."""

    def make(kind: str = "bytes", edit: Callable[[Any], Any] = lambda whole: None, **config: Any) -> Path:
        for name, content in tokenizer_files(kind, **config).items():
            (tmp_path / name).write_text(content, encoding="utf-8")
        whole = json.loads((tmp_path / "tokenizer.json").read_bytes())
        edit(whole)
        (tmp_path / "tokenizer.json").write_text(json.dumps(whole, ensure_ascii=False), encoding="utf-8")
        return tmp_path

    return make


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small SentencePiece model: 0 unk, 1 BOS, 2 EOS, 3 PAD, 400 pieces."""
    path = tmp_path_factory.mktemp("model") / "m.model"
    train_sentencepiece(corpus(100, seed=0), 400, path)
    return path.read_bytes()


def put(directory: Path, **files: Any) -> Path:
    """put(directory, config={...}) writes config.json."""
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return directory


def test_gpt2_gives_its_published_ids(shared_data: Path) -> None:
    folder = shared_data / "tokenizers" / "gpt2"
    tokenizer = make_tokenizer(JsonConfig(path=str(folder / "tokenizer.json")))
    texts = (folder / "golden.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    ids = [[int(i) for i in line.split()] for line in (folder / "golden.out").read_text().split("\n")]
    assert len(texts) == len(ids) == 47
    assert [tokenizer.encode(text) for text in texts] == ids
    assert [tokenizer.decode(each) for each in ids] == texts
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (50256, 50256, 50256)
    assert tokenizer.encode_document("hi") == [50256, 5303, 50256]
    assert tokenizer.encode_prompt("hi") == [5303]


@pytest.mark.parametrize("name", ["stories260k", "gpt2"])
def test_ids_are_those_of_transformers(name: str, shared_data: Path) -> None:
    tokenizer = load_tokenizer(shared_data / name if name == "stories260k" else shared_data / "tokenizers" / name)
    assert [tokenizer.encode(text) for text in TEXTS] == GOLDEN["encodings"][name]
    assert [tokenizer.decode(tokenizer.encode(text)) for text in TEXTS] == TEXTS


def test_a_large_gzipped_file_is_read_with_its_config(shared_data: Path) -> None:
    tokenizer = load_tokenizer(shared_data / "tokenizers" / "deepseek_r1")
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.vocab_size) == (0, 1, 1, 128_815)
    assert (tokenizer.bos_token, tokenizer.adds_bos) == ("<｜begin▁of▁sentence｜>", True)
    assert tokenizer.chat_template is not None
    text = "Prove that √2 is irrational: 你好<｜end▁of▁sentence｜>"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert not {0, 1, 2} & set(tokenizer.encode(text))
    assert json.loads(tokenizer.files()["tokenizer.json"])["version"] == "1.0"  # unpacked, as transformers wants it


@pytest.mark.parametrize("kind", KINDS)
def test_text_is_never_special_and_decodes_to_itself(kind: str, write: Write) -> None:
    tokenizer = load_tokenizer(write(kind))
    for text in [*AWKWARD, *tokenizer.specials, *(f"a {text}b" for text in tokenizer.specials)]:
        ids = tokenizer.encode(text)
        assert not set(ids) & set(tokenizer.specials.values())
        # U+2581 is a space to these files, and one that a text begins with stands for the one put before it
        want = text if kind == "bytes" else text.replace("▁", " ").removeprefix(" ")
        assert tokenizer.decode(ids) == want
    assert tokenizer.added["<think>"] in tokenizer.encode("a<think>b")
    space = " " if kind == "always" else ""
    assert tokenizer.decode(tokenizer.encode("a<think>b")) == f"a<think>{space}b"
    assert tokenizer.decode([tokenizer.bos_id, *tokenizer.encode("a"), tokenizer.eos_id, -1, 10**6]) == "a"


def test_parts_put_special_tokens_between_texts(write: Write) -> None:
    tokenizer = load_tokenizer(write("first"))
    bos, eos, user = tokenizer.bos_id, tokenizer.eos_id, tokenizer.specials["<|user|>"]
    spaced, bare = tokenizer.encode("the"), tokenizer.encode_parts(["the"], continued=True)
    assert spaced != bare
    assert tokenizer.encode_parts([bos, "the", eos]) == [bos, *bare, eos]  # the space is put at the start alone
    assert tokenizer.encode_parts(["the", user, "the</s>"]) == [*spaced, user, *bare, *tokenizer.encode("x</s>")[2:]]
    always = load_tokenizer(write("always"))
    assert always.encode_parts([bos, "the", eos]) == [bos, *spaced, eos]
    assert always.encode_parts(["the"], continued=True) == bare
    think = always.added["<think>"]
    assert always.encode_parts(["the<think>the"], continued=True) == [*bare, think, *spaced]


def test_guarded_tokens_become_text(write: Write) -> None:
    tokenizer = load_tokenizer(write())
    guarded = tokenizer.guarded(["<think>", "no such token"])
    think = tokenizer.added["<think>"]
    assert think in tokenizer.encode("<think>")
    assert think not in guarded.encode("<think></think>")
    assert tokenizer.added["</think>"] in guarded.encode("<think></think>")
    assert guarded.encode_parts([think, "a"])[0] == think
    assert tokenizer.guarded([]) is tokenizer


def test_a_special_token_that_merges_would_make_is_not_made(write: Write) -> None:
    directory = write(eos_token="the")  # "the" is learned: t h, th e
    tokenizer = load_tokenizer(directory)
    assert tokenizer.eos_id not in tokenizer.encode("the then")
    assert tokenizer.decode(tokenizer.encode("the then")) == "the then"
    assert tokenizer.encode_document("a")[-1] == tokenizer.eos_id


def test_a_unigram_model_does_not_make_special_tokens_of_text(tmp_path: Path) -> None:
    letters = [[letter, -3.0] for letter in "<>/sab▁"]
    whole = {
        "added_tokens": [{"id": 1, "content": "</s>", "special": True, "lstrip": False, "rstrip": False,
                          "single_word": False, "normalized": False}],
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": False},
        "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": False},
        "model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["</s>", 0.0], *letters]},
    }  # fmt: skip
    put(tmp_path, tokenizer=whole)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.eos_id == 1
    assert tokenizer.decode(tokenizer.encode("a</s> b")) == "a</s> b"
    assert 1 not in tokenizer.encode("a</s> b")


def test_bos_is_added_where_the_files_say_so(write: Write) -> None:
    def processor(whole: Any) -> None:
        bos, text = {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
        known = {"<s>": {"id": "<s>", "ids": [332], "tokens": ["<s>"]}}
        whole["post_processor"] = {
            "type": "TemplateProcessing", "single": [bos, text], "pair": [bos, text, text], "special_tokens": known,
        }  # fmt: skip

    assert not load_tokenizer(write()).adds_bos
    assert load_tokenizer(write(add_bos_token=True)).adds_bos
    assert load_tokenizer(write(edit=processor)).adds_bos
    assert not load_tokenizer(write(edit=processor, add_bos_token=False)).adds_bos
    tokenizer = load_tokenizer(write(edit=processor))
    assert tokenizer.encode_prompt("a") == [tokenizer.bos_id, *tokenizer.encode("a")]
    assert tokenizer.bos_id not in tokenizer.encode("a")


def test_all_ids_that_end_a_text_are_known(write: Write) -> None:
    directory = write(bos_token=None, eos_token="<|im_end|>")
    eot, end = (load_tokenizer(directory).specials[text] for text in ("<|eot_id|>", "<|im_end|>"))
    put(directory, generation_config={"eos_token_id": [eot, end]}, config={"eos_token_id": 2, "bos_token_id": 5})
    tokenizer = load_tokenizer(directory)
    assert tokenizer.stop_ids == {eot, end, 2}
    assert (tokenizer.eos_id, tokenizer.bos_id, tokenizer.bos_token, tokenizer.adds_bos) == (end, 5, None, False)
    put(directory, tokenizer_config={}, generation_config={"eos_token_id": [eot, end], "bos_token_id": 6})
    tokenizer = load_tokenizer(directory)
    assert tokenizer.bos_id == 6
    assert (tokenizer.eos_id, tokenizer.eos_token) == (eot, "<|eot_id|>")  # generation_config.json comes first


def test_pad_may_be_eos_and_eos_is_kept(write: Write) -> None:
    tokenizer = load_tokenizer(write(pad_token="</s>"))
    assert tokenizer.pad_id == tokenizer.eos_id
    assert tokenizer.encode_document("a")[-1] == tokenizer.eos_id
    assert load_tokenizer(write()).pad_id == tokenizer.specials["<unk>"]  # where no file names one
    assert load_tokenizer(put(write(), config={"pad_token_id": -1})).pad_id == tokenizer.specials["<unk>"]


def test_sentencepiece_directories_get_added_tokens(tmp_path: Path, model: bytes) -> None:
    (tmp_path / "tokenizer.model").write_bytes(model)
    put(tmp_path, added_tokens={"<|im_start|>": 400, "<|im_end|>": 401})
    put(tmp_path, tokenizer_config={
        "eos_token": {"content": "<|im_end|>", "special": True},
        "added_tokens_decoder": {"402": {"content": "<think>", "special": False}},
    })  # fmt: skip
    tokenizer = load_tokenizer(tmp_path)
    assert isinstance(tokenizer, SentencePieceTokenizer)
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (403, 1, 401, 3)
    assert tokenizer.specials["<|im_start|>"] == 400
    assert not {1, 2, 400, 401} & set(tokenizer.encode("<s></s><|im_end|><|im_start|>"))
    assert tokenizer.encode("a<think>a") == [*tokenizer.encode("a"), 402, *tokenizer.encode("a")]
    assert tokenizer.decode([400, *tokenizer.encode("a<think> b"), 401, 2]) == "a<think> b"
    assert tokenizer.encode_parts([400, "hi", 401]) == [400, *tokenizer.encode("hi"), 401]


def test_a_piece_of_the_model_that_is_special_is_not_made_of_text(tmp_path: Path, model: bytes) -> None:
    (tmp_path / "tokenizer.model").write_bytes(model)
    plain = load_tokenizer(tmp_path)
    piece = max(plain.encode("Once upon a time"))
    text = plain.decode([piece])
    put(tmp_path, tokenizer_config={"additional_special_tokens": [text]})
    assert piece not in load_tokenizer(tmp_path).encode("Once upon a time")
    assert load_tokenizer(tmp_path).decode(load_tokenizer(tmp_path).encode("Once upon a time")) == "Once upon a time"


def test_a_published_model_goes_on_after_text_without_a_space(shared_data: Path) -> None:
    tokenizer = load_tokenizer(shared_data / "tokenizers" / "mistral_v1")
    assert tokenizer.encode("hello") == [6312, 28709]
    assert tokenizer.encode_parts(["hello"], continued=True) == [21558]
    assert tokenizer.encode_parts([1, "hello", 2, "hello"]) == [1, 6312, 28709, 2, 6312, 28709]
    assert tokenizer.decode([6312, 28709], continued=True) == " hello"


@pytest.mark.parametrize(
    ("config", "files", "want"),
    [
        ({"chat_template": "one"}, {}, "one"),
        ({"chat_template": [{"name": "rag", "template": "a"}, {"name": "default", "template": "b"}]}, {}, "b"),
        ({"chat_template": [{"name": "rag", "template": "a"}]}, {}, None),
        ({"chat_template": "one"}, {"chat_template.jinja": "two"}, "two"),
        ({}, {"chat_template.json": '{"chat_template": "three"}'}, "three"),
        ({}, {}, None),
    ],
)
def test_the_chat_template_is_found(config: Any, files: dict[str, str], want: str | None, write: Write) -> None:
    directory = write(**config)
    for name, content in files.items():
        (directory / name).write_text(content)
    assert load_tokenizer(directory).chat_template == want


def tokenizers(directory: Path, model: bytes) -> list[Tokenizer]:
    """One of each kind, whose files have odd but legal spacing, which must survive."""
    config = (directory / "tokenizer_config.json").read_bytes()
    (directory / "tokenizer_config.json").write_bytes(config.replace(b"{", b"{ \n", 1) + b"\n\n")
    (directory / "generation_config.json").write_text('{ "eos_token_id":[2],"top_p":0.9}\n')
    named = JsonConfig(path=str(directory / "tokenizer.json"), bos_token="<|user|>", eos_token="<|end|>")
    return [
        BytesTokenizer(),
        SentencePieceTokenizer(model, "m.model"),
        make_tokenizer(HuggingFaceConfig(path=str(directory))),
        make_tokenizer(named),
    ]


def test_a_checkpoint_and_a_directory_hold_the_whole_tokenizer(write: Write, model: bytes, tmp_path: Path) -> None:
    directory = write(chat_template="{{ messages }}")
    for number, tokenizer in enumerate(tokenizers(directory, model)):
        saved = json.loads(json.dumps(tokenizer.to_json()))
        save_tokenizer(tokenizer_from_json(saved), tmp_path / "out" / str(number))
        for again in (tokenizer_from_json(saved), load_tokenizer(tmp_path / "out" / str(number))):
            for name in ("vocab_size", "bos_id", "eos_id", "pad_id", "stop_ids", "adds_bos", "specials", "bos_token"):
                assert getattr(again, name) == getattr(tokenizer, name), name
            assert [again.encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]
            assert again.chat_template == tokenizer.chat_template
        assert tokenizer_from_json(saved).fingerprint == tokenizer.fingerprint
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "out" / "2" / name).read_bytes() == (directory / name).read_bytes()


def test_a_unigram_model_is_saved_as_one(tmp_path: Path) -> None:
    tokenizer = train_sentencepiece(corpus(100, seed=0), 400, tmp_path / "m.model", "unigram")
    save_tokenizer(tokenizer, tmp_path / "out")  # transformers takes a .model for BPE
    again = load_tokenizer(tmp_path / "out")
    assert isinstance(again, JsonTokenizer)
    texts = [*TEXTS, *corpus(20, seed=1)]
    assert [again.encode(text) for text in texts] == [tokenizer.encode(text) for text in texts]
    assert (again.bos_id, again.eos_id, again.pad_id, again.adds_bos) == (1, 2, 3, True)


def test_a_saved_chat_template_takes_the_place_of_the_old(write: Write, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write(chat_template="old"))
    save_tokenizer(tokenizer, tmp_path / "out", chat_template="new\n")
    assert load_tokenizer(tmp_path / "out").chat_template == "new\n"


def test_fingerprints_tell_tokenizers_apart(write: Write) -> None:
    first = load_tokenizer(write()).fingerprint
    assert load_tokenizer(write(eos_token="<|im_end|>")).fingerprint != first
    assert load_tokenizer(write("first")).fingerprint != first
    assert load_tokenizer(write()).fingerprint == first


BROKEN: dict[str, Callable[[Any], Any]] = {
    "no model": lambda whole: whole.pop("model"),
    "no vocabulary": lambda whole: whole["model"].pop("vocab"),
    "vocabulary of texts": lambda whole: whole["model"].update(vocab=["a"]),
    "empty vocabulary": lambda whole: (whole["model"].update(vocab={}, merges=[]), whole["added_tokens"].clear()),
    "merge of nothing": lambda whole: whole["model"]["merges"].append(["q", "qqq"]),
    "added token without id": lambda whole: whole["added_tokens"][0].pop("id"),
    "gap in the ids": lambda whole: whole["added_tokens"][-1].update(id=100_000),
    "no decoder": lambda whole: whole.pop("decoder"),
    "another decoder": lambda whole: whole.update(decoder={"type": "WordPiece", "prefix": "##", "cleanup": True}),
    "unknown normalizer": lambda whole: whole.update(normalizer={"type": "Nonsense"}),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_tokenizer_json_is_refused(name: str, write: Write) -> None:
    with pytest.raises(UserError, match=r"tokenizer\.json") as caught:
        load_tokenizer(write(edit=BROKEN[name]))
    assert "mend" in str(caught.value) or "only ByteLevel" in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, gzip.compress(b"{}", mtime=0)[:-9]]
)
def test_a_file_that_is_no_json_is_refused(content: bytes, write: Write) -> None:
    directory = write()
    (directory / "tokenizer.json").write_bytes(content)
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        load_tokenizer(directory)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config": {"eos_token_id": 1000}, "tokenizer_config": {}}, r"eos_token_id 1000 is no id of its 350 tokens"),
        ({"generation_config": {"eos_token_id": [2, -7]}}, r"eos_token_id -7 is no id"),
        ({"config": {"pad_token_id": 350}}, r"pad_token_id 350 is no id"),
        ({"config": {"eos_token_id": "</s>"}}, r"config\.json: eos_token_id is '</s>', and must be an id"),
        ({"config": []}, r"config\.json: holds list, not an object"),
        ({"tokenizer_config": {"eos_token": "<nowhere>"}}, r"eos_token '<nowhere>' is not in the vocabulary"),
        ({"tokenizer_config": {"added_tokens_decoder": {"3": {"content": "<s>"}}}}, r"'<s>' has the id 332, and 3 in"),
        ({"tokenizer_config": {"added_tokens_decoder": {"x": {"content": "y"}}}}, r"cannot read the added tokens"),
    ],
)
def test_files_that_contradict_each_other_are_refused(files: dict[str, Any], message: str, write: Write) -> None:
    with pytest.raises(UserError, match=message):
        load_tokenizer(put(write(), **files))


def test_a_directory_without_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no tokenizer in it \(tokenizer\.json or tokenizer\.model\)"):
        load_tokenizer(put(tmp_path, config={"eos_token_id": 2}))
    with pytest.raises(UserError, match="no such directory"):
        make_tokenizer(HuggingFaceConfig(path=str(tmp_path / "none")))
    with pytest.raises(UserError, match="No such file"):
        make_tokenizer(JsonConfig(path=str(tmp_path / "tokenizer.json")))


def test_a_corrupt_model_in_a_directory_is_refused(tmp_path: Path, model: bytes) -> None:
    (tmp_path / "tokenizer.model").write_bytes(model[:-5])
    with pytest.raises(UserError, match="not a SentencePiece model"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(model)
    put(tmp_path, added_tokens={"<new>": 5})
    with pytest.raises(UserError, match=r"'<new>' cannot have the id 5"):
        load_tokenizer(tmp_path)


def test_an_end_must_be_named_where_none_is_usual(write: Write) -> None:
    directory = write(edit=lambda whole: [token.update(content=f"@{token['id']}") for token in whole["added_tokens"]])
    path = str(directory / "tokenizer.json")
    with pytest.raises(UserError, match="no file says which token ends a text"):
        make_tokenizer(JsonConfig(path=path))
    assert make_tokenizer(JsonConfig(path=path, eos_token="@333")).eos_id == 333


def test_half_a_surrogate_pair_is_refused(write: Write) -> None:
    with pytest.raises(UserError, match=r"U\+D800"):
        load_tokenizer(write()).encode("a \ud800 b")


def test_kinds_of_config_are_told_apart() -> None:
    assert make_tokenizer(BytesConfig()).kind == "bytes"
