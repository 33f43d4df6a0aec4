"""Chat templates: exact texts and ids, and the assistant's tokens found exactly."""

import itertools
import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from jaxrl_llm.data.chat import (
    BUNDLED,
    Template,
    chat_stop_ids,
    find_template,
    tokenize_chat,
    tokenize_prompt,
)
from jaxrl_llm.data.tokenizers import BytesTokenizer, Tokenizer, load_tokenizer
from jaxrl_llm.errors import UserError
from tests.golden.chat_cases import CONVERSATIONS, KINDS, TEMPLATES, tokenizer_files

GOLDEN = json.loads((Path(__file__).parent.parent / "golden" / "chat.json").read_text(encoding="utf-8"))["chats"]
Conversation = list[dict[str, str]]


def talk(*contents: str, system: str | None = None) -> Conversation:
    roles = itertools.cycle(("user", "assistant"))
    start = [] if system is None else [{"role": "system", "content": system}]
    return start + [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]


def of_case(name: str, tokenizer: Tokenizer) -> Template:
    return Template(name, TEMPLATES[name], tokenizer.bos_token, tokenizer.eos_token)


def answers(tokenizer: Tokenizer, ids: Sequence[int], trained: Sequence[bool]) -> list[tuple[str, int]]:
    """What was trained, stretch by stretch: the text, as it goes on after what stands before, and the last id."""
    found = []
    ends = [0, *(n for n in range(1, len(ids)) if trained[n] != trained[n - 1]), len(ids)]
    for begin, end in itertools.pairwise(ends):
        if trained[begin]:
            found.append((tokenizer.decode(ids[begin:end], continued=True), ids[end - 1]))
    return found


def test_the_texts_of_eight_published_templates(shared_data: Path) -> None:
    data = json.loads((shared_data / "chat_templates.json").read_text(encoding="utf-8"))
    assert len(data["cases"]) == 8
    for case in data["cases"]:
        template = Template(case["name"], case["template_str"], case.get("bos_token"), case.get("eos_token"))
        text = template.render(data["messages"], data["add_generation_prompt"])
        assert text == (case["expected_output_jinja"] or case["expected_output"]), case["name"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_text_ids_and_blocks_are_those_of_transformers(name: str, kind: str, tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers[kind]
    template = of_case(name, tokenizer)
    for case, messages in CONVERSATIONS.items():
        want = GOLDEN[f"{kind} {name} {case}"]
        asked = messages[-1]["role"] == "user"
        if "refused" in want:
            with pytest.raises(UserError, match=f"chat template {name}: {want['refused']}"):
                template.render(messages, asked)
            continue
        assert template.render(messages, asked) == want["text"]
        if asked:
            assert tokenize_prompt(tokenizer, template, messages) == want["ids"]
            continue
        ids, trained = tokenize_chat(tokenizer, template, messages, train_on="last")
        assert ids == want["ids"]
        if "mask" in want and len(messages) < 4:
            assert [int(each) for each in trained] == want["mask"]


@pytest.mark.parametrize("kind", ["plain bytes", "sentencepiece", *KINDS])
def test_answers_of_templates_like_those_of_known_models(kind: str, tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers[kind]
    messages = talk(" a<|im_end|>", "  and\nthe hat ", "then?", "größe", "so")
    for name in TEMPLATES:
        ids, trained = tokenize_chat(tokenizer, of_case(name, tokenizer), messages)
        trims = name in ("llama31", "gemma", "mistral3")
        texts = [text.strip() if trims else text for text in ("  and\nthe hat ", "größe")]
        found = answers(tokenizer, ids, trained)
        if kind == "always" and name == "phi3":  # this file puts a space after every special token, if there is none
            texts = [text if text.startswith(" ") else f" {text}" for text in texts]
        if name == "blocks" and "<|im_end|>" not in tokenizer.specials:  # text as any other, and in the block
            texts = [f"{text}<|im_end|>" for text in texts]
        assert [text for text, _ in found] == [f" {text}" if name == "mistral3" else text for text in texts]
        assert {end for _, end in found} <= chat_stop_ids(tokenizer, of_case(name, tokenizer))


# The text of an answer in each bundled template, and the special token that ends it where the vocabulary has that.
ANSWERS = {
    "chatml": (lambda text: text, "<|im_end|>"),
    "llama2": (lambda text: f" {text.strip()} ", "</s>"),
    "llama3": (lambda text: text.strip(), "<|eot_id|>"),
    "mistral": (lambda text: f" {text}", "</s>"),
    "plain": (lambda text: f" {text}", "</s>"),
}
BITS = [
    *(
        "",
        " ",
        "\n",
        "\n\n",
        "  ",
        "\t",
        "the cat",
        "Hi",
        "a",
        "größe",
        "你好",
        "🎉👩‍👩‍👧",
        "e\u0301",
        "1 + 1 = 2",
        "▁",
        "\x00",
    ),
    *("<s>", "</s>", "<unk>", "<pad>", "<|im_start|>", "<|im_end|>", "<|im_start|>assistant\n", "<|eot_id|>", "[INST]"),
    *(
        "[/INST]",
        "<|im_",
        "end|>",
        "</",
        "s>",
        "<think>",
        "</think>",
        "User:",
        "\nAssistant: ",
        "{{ x }}",
        "\U000f0000",
    ),
]


def conversations(n: int, seed: int) -> list[Conversation]:
    """1 to 6 turns, half of them after a system message, and now and then without an answer to the last question."""
    rng = random.Random(seed)

    def text() -> str:
        return "".join(rng.choices(BITS, k=rng.choice((0, 1, 2, 3, 6))))

    return [
        talk(*(text() for _ in range(2 * rng.randint(1, 6) - (rng.random() < 0.1))), system=rng.choice((None, text())))
        for _ in range(n)
    ]


def spell(tokenizer: Tokenizer, ids: Sequence[int], without: set[int]) -> str:
    """The text of some ids, special tokens as they are spelled, but for some."""
    names = {id: text.encode() for text, id in tokenizer.specials.items()}
    return b"".join(names[id] if id in names else tokenizer.piece(id) for id in ids if id not in without).decode()


@pytest.mark.parametrize("kind", ["plain bytes", "sentencepiece", "bytes"])
@pytest.mark.parametrize("name", BUNDLED)
def test_any_conversation_in_any_bundled_template(name: str, kind: str, tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers[kind]
    template = find_template(tokenizer, name)
    written, end = ANSWERS[name][0], tokenizer.specials.get(ANSWERS[name][1], tokenizer.eos_id)
    special = set(tokenizer.specials.values())
    shapes: dict[tuple[str, ...], list[int]] = {}
    for messages in conversations(1000, seed=len(name + kind)):
        said = [message["content"] for message in messages if message["role"] == "assistant"]
        if not said:
            with pytest.raises(UserError, match="nothing to train on"):
                tokenize_chat(tokenizer, template, messages)
            continue
        ids, trained = tokenize_chat(tokenizer, template, messages)
        # The answers, each with its end, and nothing else.
        assert answers(tokenizer, ids, trained) == [(written(text), end) for text in said]
        # Special tokens are the template's alone: the same ones whatever the messages say; BOS begins, once.
        shape = tuple(message["role"] for message in messages)
        if shape not in shapes:
            harmless = [{**message, "content": "x"} for message in messages]
            shapes[shape] = [id for id in tokenize_chat(tokenizer, template, harmless).ids if id in special]
        assert [id for id in ids if id in special] == shapes[shape]
        assert (ids[0] == tokenizer.bos_id) == (tokenizer.adds_bos or name in ("llama2", "llama3", "mistral"))
        assert ids[1] != tokenizer.bos_id
        # Nothing is lost and nothing added, but BOS and EOS where the template writes none.
        own = {tokenizer.bos_id} if name in ("chatml", "plain") else set()
        own |= {tokenizer.eos_id} if name in ("chatml", "llama3") else set()
        assert spell(tokenizer, ids, own) == template.render(messages)


@pytest.mark.parametrize("kind", ["plain bytes", "sentencepiece", *KINDS])
@pytest.mark.parametrize("name", [*BUNDLED, "qwen25", "llama31", "blocks", "phi3"])
def test_an_answer_follows_the_tokens_of_its_prompt(name: str, kind: str, tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers[kind]
    template = find_template(tokenizer, name) if name in BUNDLED else of_case(name, tokenizer)
    for messages in conversations(30, seed=1):
        turns = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
        for number in turns[-1:]:
            ids, trained = tokenize_chat(tokenizer, template, messages, train_on="last")
            assert tokenize_prompt(tokenizer, template, messages[:number]) == ids[: trained.index(True)]
            assert tokenize_chat(tokenizer, template, messages).ids == ids


def test_training_on_the_last_answer_alone(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["bytes"]
    messages = talk("a", "one", "b", "two", "c")
    ids, trained = tokenize_chat(tokenizer, find_template(tokenizer, "chatml"), messages, train_on="last")
    assert [text for text, _ in answers(tokenizer, ids, trained)] == ["two"]


def test_an_end_that_the_vocabulary_lacks_is_eos_put_after_the_words() -> None:
    tokenizer = BytesTokenizer()
    template = find_template(tokenizer, "chatml")
    ids, trained = tokenize_chat(tokenizer, template, talk("a", "b"))
    assert spell(tokenizer, ids, set()) == "<s><|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb</s><|im_end|>\n"
    assert [id for id, each in zip(ids, trained, strict=True) if each] == [ord("b"), tokenizer.eos_id]
    assert chat_stop_ids(tokenizer, template) == {tokenizer.eos_id}


def test_the_token_after_an_answer_is_its_end_only_if_it_closes_the_last_one_too(
    tokenizers: dict[str, Tokenizer],
) -> None:
    tokenizer = tokenizers["bytes"]
    opens = "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '\n' }}{% endfor %}"
    template = Template("opens", opens, "<s>", "</s>")
    ids, trained = tokenize_chat(tokenizer, template, talk("a", "b", "c", "d"))
    assert answers(tokenizer, ids, trained) == [("b", tokenizer.eos_id), ("d", tokenizer.eos_id)]
    assert chat_stop_ids(tokenizer, template) == {tokenizer.eos_id}
    chatml = find_template(tokenizer, "chatml")
    assert chat_stop_ids(tokenizer, chatml) == {tokenizer.eos_id, tokenizer.specials["<|im_end|>"]}


def test_an_answer_that_its_prompt_leads_elsewhere_begins_with_its_own_space(tokenizers: dict[str, Tokenizer]) -> None:
    source = "{% for m in messages %}{{ m.role + ':' + m.content + eos_token }}{% endfor %}"
    template = Template("odd", source + "{% if add_generation_prompt %}assistant:<think>{% endif %}", "<s>", "</s>")
    for tokenizer in (tokenizers["bytes"], tokenizers["plain bytes"]):
        ids, trained = tokenize_chat(tokenizer, template, talk("a", "  b\n", "c", " d"))
        assert answers(tokenizer, ids, trained) == [("  b\n", tokenizer.eos_id), (" d", tokenizer.eos_id)]


@pytest.mark.parametrize(
    "last", ["<|im_end|>{% endgeneration %}", "{% endgeneration %}<|im_end|>", "{% endgeneration %}"]
)
def test_a_generation_block_may_say_more_than_the_message(last: str, tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["bytes"]
    source = "{% for m in messages %}|{% generation %}{{ '<think>' + m.content + ' over' }}" + last + "{% endfor %}"
    ids, trained = tokenize_chat(tokenizer, Template("blocks", source, "<s>", "</s>"), talk("a", "b", "c", "d"))
    end = tokenizer.specials["<|im_end|>" if "im_end" in last else "</s>"]
    assert answers(tokenizer, ids, trained) == [("<think>b over", end), ("<think>d over", end)]


def test_pad_that_is_eos_ends_answers_all_the_same(tmp_path: Path) -> None:
    for name, content in tokenizer_files("bytes", pad_token="</s>", add_bos_token=True).items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.pad_id == tokenizer.eos_id
    ids, trained = tokenize_chat(tokenizer, find_template(tokenizer, "plain"), talk("a", "b"))
    assert (answers(tokenizer, ids, trained), ids.count(tokenizer.bos_id)) == ([(" b", tokenizer.eos_id)], 1)


def test_tokens_that_a_template_writes_are_never_made_of_a_question(shared_data: Path) -> None:
    tokenizer = load_tokenizer(shared_data / "tokenizers" / "deepseek_r1")
    template = find_template(tokenizer)
    user, assistant, thought = (tokenizer.added[text] for text in ("<｜User｜>", "<｜Assistant｜>", "</think>"))
    assert user not in tokenizer.specials.values()  # though it should be: only the template tells
    ids, _ = tokenize_chat(
        tokenizer, template, talk("Hi<｜User｜> <｜Assistant｜></think><｜end▁of▁sentence｜>", "Hello")
    )
    assert [id for id in ids if id in (0, 1, user, assistant, thought)] == [0, user, assistant, 1]
    assert tokenize_prompt(tokenizer, template, talk("Hello"))[-1] == assistant


STRIPS = "{% for m in messages %}{{ m.role }}: {{ m.content.split('</think>')[-1] }}</s>\n{% endfor %}"


@pytest.mark.parametrize(
    ("source", "answer", "found"),
    [
        (STRIPS, "<think>hm</think>yes", "is changed: '<think>hm</think>yes' is written as 'yes'"),
        ("{% for m in messages if m.role != 'assistant' %}{{ m.content }}{% endfor %}", "yes", "is left out"),
        ("{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}", "yes", "is written 2 times"),
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "yes", "is changed: 'yes' is written as 'YES'"),
        ("{% for m in messages %}{{ m.content[:2] }}{% endfor %}", "yes", "depends on what is in them"),
        ("{% for m in messages %}{{ m.content | length }}{% endfor %}", "yes", "depends on what is in them"),
        (
            "{% for m in messages %}{% generation %}{{ 'x' }}{% endgeneration %}{{ m.content }}{% endfor %}",
            "yes",
            "is in no generation block",
        ),
    ],
)
def test_a_template_that_cannot_be_trained_with_is_refused(source: str, answer: str, found: str) -> None:
    tokenizer, template = BytesTokenizer(), Template("odd", source, "<s>", "</s>")
    with pytest.raises(UserError, match="chat template odd: ") as caught:
        tokenize_chat(tokenizer, template, talk("q", answer))
    assert found in str(caught.value)
    assert tokenize_prompt(tokenizer, template, talk("q", answer, "r"))  # one can still talk with it


def test_what_earlier_answers_lose_does_not_matter_to_the_last(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["bytes"]
    template = of_case("qwen3", tokenizer)
    thought = "<think>\nhm\n</think>\n\nyes"
    messages = talk("a", thought, "b", thought)
    with pytest.raises(UserError, match=r"qwen3: message 2 of 4 \(assistant\) is changed"):
        tokenize_chat(tokenizer, template, messages)
    ids, trained = tokenize_chat(tokenizer, template, messages, train_on="last")
    assert answers(tokenizer, ids, trained) == [(thought, tokenizer.specials["<|im_end|>"])]
    assert tokenizer.added["<think>"] in ids
    ids, trained = tokenize_chat(tokenizer, template, talk("a", "b", "c", "d"))  # no thoughts, none lost
    ends = tokenizer.specials["<|im_end|>"]
    assert answers(tokenizer, ids, trained) == [("b", ends), ("<think>\n\n</think>\n\nd", ends)]


@pytest.mark.parametrize("written", ["m.content | length ~ m.content", "m.content.split('|||')[1]"])
def test_a_message_that_cannot_be_told_from_the_template_must_not_spell_its_tokens(
    written: str, tokenizers: dict[str, Tokenizer]
) -> None:
    template = Template("odd", "{% for m in messages %}{{ " + written + " }}{% endfor %}", "<s>", "</s>")
    assert tokenize_prompt(tokenizers["bytes"], template, talk("a ||| b ||| c"))
    with pytest.raises(UserError, match=r"odd: a message spells '<\|im_end\|>'"):
        tokenize_prompt(tokenizers["bytes"], template, talk("a ||| <|im_end|> ||| b"))
