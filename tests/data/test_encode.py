"""Examples as tokens: exactly the assistant's words count, prompts are whole or cut alike, and nothing is silent."""

import dataclasses
import itertools
import pickle
import random

import pytest

from jaxrl_llm.data.chat import BUNDLED, Template, find_template, tokenize_chat, tokenize_prompt
from jaxrl_llm.data.encode import Encoder, LeftOut, Refused, encode_all, ghost
from jaxrl_llm.data.examples import Comparison, Conversation, Judgement, Unwanted
from jaxrl_llm.data.sequences import Encoded, write_sequences
from jaxrl_llm.data.tokenizers import BytesTokenizer, load_tokenizer, train_sentencepiece
from jaxrl_llm.errors import UserError
from jaxrl_llm.tasks import corpus
from tests.data.test_chat import ANSWERS, answers, conversations, talk
from tests.golden.chat_cases import tokenizer_files

LONG = 1 << 20
BYTES = BytesTokenizer()
CHATML = find_template(BYTES, "chatml")


def encoder(max_length=LONG, **options):
    return Encoder(BYTES, CHATML, max_length, **options)


def text(ids):
    return BYTES.decode(ids)


def comparison(*contents, ranks=None, prompt="Why?", **options):
    given = tuple(({"role": "assistant", "content": content},) for content in contents)
    ranks = tuple(range(len(given))) if ranks is None else ranks
    return Comparison(tuple(talk(prompt)), given, ranks, "a.jsonl:3", **options)


@pytest.fixture(scope="module", params=["plain bytes", "sentencepiece", "bytes"])
def tokenizer(request, tmp_path_factory):
    base = tmp_path_factory.mktemp("tokenizer")
    if request.param == "plain bytes":
        return BYTES
    if request.param == "sentencepiece":
        return train_sentencepiece(corpus(100, seed=0), 400, base / "m.model")
    for name, content in tokenizer_files("bytes").items():
        (base / name).write_text(content, encoding="utf-8")
    return load_tokenizer(base)


@pytest.mark.parametrize("name", BUNDLED)
def test_trained_tokens_in_the_store_are_the_assistants_words_and_ends(name, tokenizer, tmp_path):
    template = find_template(tokenizer, name)
    written, end = ANSWERS[name][0], tokenizer.specials.get(ANSWERS[name][1], tokenizer.eos_id)
    rng = random.Random(name)
    encode = Encoder(tokenizer, template, LONG)
    expected, encoded = [], []
    for n, messages in enumerate(conversations(1000, seed=n_of(name))):
        counts = tuple(rng.choice((0.0, 0.5, 1.0, 1.0, 2.0)) for _ in messages)
        counts = None if rng.random() < 0.5 else counts
        weights = counts or (1.0,) * len(messages)
        said = [
            (written(message["content"]), end, weight)
            for message, weight in zip(messages, weights, strict=True)
            if message["role"] == "assistant" and message["content"].strip() and weight
        ]
        found = encode(Conversation(tuple(messages), counts, f"x:{n}"))
        if not said:
            assert isinstance(found, LeftOut)
            continue
        encoded.append(found)
        expected.append(said)
    assert len(expected) > 800
    store = write_sequences(tmp_path / "store", encoded)
    bos = tokenizer.adds_bos or name in ("llama2", "llama3", "mistral")
    for example, said in enumerate(expected):
        ids, weights = (array.tolist() for array in store.answer(example, 0))
        starts = [0, *(n for n in range(1, len(ids)) if weights[n] != weights[n - 1]), len(ids)]
        runs = [(a, b, weights[a]) for a, b in itertools.pairwise(starts) if weights[a]]
        assert [(tokenizer.decode(ids[a:b], continued=True), ids[b - 1], w) for a, b, w in runs] == said
        assert (ids[0] == tokenizer.bos_id, ids[1] != tokenizer.bos_id) == (bos, True)
        assert len(store.prompt(example)) == 0


def n_of(name):
    return list(BUNDLED).index(name) + 7


@pytest.mark.parametrize("name", BUNDLED)
def test_prompt_and_answer_are_the_tokens_of_the_chat(name, tokenizer):
    template = find_template(tokenizer, name)
    encode = Encoder(tokenizer, template, LONG)
    for messages in conversations(30, seed=3):
        for start in [n for n, m in enumerate(messages) if m["role"] == "assistant"][:2]:
            end = max(n for n, m in enumerate(messages) if m["role"] == "assistant") + 1
            prompt, said = tuple(messages[:start]), tuple(messages[start:end])
            found = encode(Judgement(prompt, said, True, "x:1"))
            if not any(m["content"].strip() for m in said if m["role"] == "assistant"):
                assert found == LeftOut("empty")
                continue
            assert found.prompt == tokenize_prompt(tokenizer, template, prompt)
            [(ids, weights)] = found.answers
            whole = tokenize_chat(tokenizer, template, messages[:end]).ids
            assert found.prompt + ids == whole[: len(found.prompt + ids)]
            assert weights[-1] == 1  # the end token, and nothing that the template writes after it
            trained = [text for text, _ in answers(tokenizer, ids, [w > 0 for w in weights])]
            written = ANSWERS[name][0]
            assert trained == [written(m["content"]) for m in said if m["role"] == "assistant" and m["content"].strip()]


def test_which_answers_are_trained_on():
    messages = tuple(talk("a", "one", "b", "two", "c", "three"))

    def trained(counts=None, **options):
        found = encoder(**options)(Conversation(messages, counts, "x:1"))
        [(ids, weights)] = found.answers
        return {w: text([i for i, weight in zip(ids, weights, strict=True) if weight == w]) for w in set(weights) - {0}}

    assert trained() == {1.0: "onetwothree"}
    assert trained(train_on="last") == {1.0: "three"}
    assert trained(gatt=True) == {1.0: "three"}
    assert trained((1.0, 0.25, 1.0, 0.0, 1.0, 3.0)) == {0.25: "one", 3.0: "three"}
    last = Conversation(messages, (1.0,) * 5 + (0.0,), "x:1")
    assert encoder(train_on="last")(last) == LeftOut("untrained")
    assert encoder()(Conversation(messages[:1], None, "x:1")) == LeftOut("untrained")
    assert encoder()(Conversation(tuple(talk("a", " \n")), None, "x:1")) == LeftOut("empty")
    assert encoder()(Conversation(tuple(talk("a", "", "b", "c")), None, "x:1")).left_out == 1


def test_a_token_that_nothing_precedes_is_not_trained(tmp_path):
    for name, content in tokenizer_files("bytes", add_bos_token=False).items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    tokenizer = load_tokenizer(tmp_path)
    bare = Template("bare", "{% for m in messages %}{{ m.content }}{% endfor %}", None, "</s>")
    found = Encoder(tokenizer, bare, LONG)(Conversation(({"role": "assistant", "content": "abc"},), None, "x:1"))
    [(ids, weights)] = found.answers
    assert (tokenizer.decode(ids), weights) == ("abc", [0.0, *[1.0] * (len(ids) - 1)])


def test_ghost_attention_keeps_the_instruction_in_the_first_turn_alone():
    messages = talk("Rhyme. Hi", "Ho", "Rhyme.\n\nAnd?", "Band", "Rhymes?", "Times", "Rhyme.", "Lime", system="Rhyme.")
    found, weights = ghost(messages, tuple(map(float, range(9))))
    assert [message["content"] for message in found] == [
        *("Rhyme.\n\nHi", "Ho", "And?", "Band", "Rhymes?", "Times", "Rhyme.", "Lime")
    ]
    assert weights == (1, 2, 3, 4, 5, 6, 7, 8)
    assert ghost(talk("a", "b"), (1.0, 2.0)) == (tuple(talk("a", "b")), (1.0, 2.0))
    [(ids, trained)] = encoder(gatt=True)(Conversation(tuple(messages[:5]), None, "x:1")).answers
    assert text(ids).count("Rhyme.") == 1
    assert "system" not in text(ids)
    assert text([i for i, weight in zip(ids, trained, strict=True) if weight]) == "Band"


def test_a_long_prompt_loses_its_start_alike_and_answers_their_ends():
    whole = encoder()(comparison("yes" * 10, "no", prompt="p" * 100))
    longest = max(len(ids) for ids, _ in whole.answers)
    for size in (150, 100, 60, 20, 3):
        found = encoder(size)(comparison("yes" * 10, "no", prompt="p" * 100))
        room = max(size - longest, -(-size // 2))
        assert len(found.prompt) == room
        assert found.prompt[0] == BYTES.bos_id
        assert found.prompt[1:] == whole.prompt[len(whole.prompt) - room + 1 :]
        for (ids, weights), (all_ids, all_weights) in zip(found.answers, whole.answers, strict=True):
            assert (ids, weights) == (all_ids[: size - room], all_weights[: size - room])
        assert found.cut
        assert encoder(size, overlong="drop")(comparison("yes" * 10, "no", prompt="p" * 100)) == LeftOut("overlong")
    assert not whole.cut
    assert encoder(len(whole.prompt) + longest)(comparison("yes" * 10, "no", prompt="p" * 100)) == whole


def test_a_long_conversation_loses_its_end():
    conversation = Conversation(tuple(talk("q" * 30, "one", "q" * 30, "two")), None, "x:1")
    [(ids, weights)] = encoder()(conversation).answers
    end = max(n for n in range(len(ids)) if weights[n] and n < len(ids) // 2) + 10
    assert encoder(end)(conversation) == Encoded([], [(ids[:end], weights[:end])], cut=True)
    assert encoder(30)(conversation) == LeftOut("untrained")
    assert encoder(end, overlong="drop")(conversation) == LeftOut("overlong")


@pytest.mark.parametrize(
    ("example", "reason"),
    [
        (comparison("a", "a"), "identical"),
        (comparison("a", "a", ranks=(0, 0)), "identical"),
        (comparison("a", "b", ranks=(1, 1)), "tied"),
        (comparison("a", " \n"), "empty"),
        (comparison("", "", "b"), "empty"),
        (comparison("x" * 99 + "a", "x" * 99 + "b"), "identical"),  # once they are cut
        (Judgement(tuple(talk("q")), ({"role": "assistant", "content": " "},), True, "x:1"), "empty"),
    ],
)
def test_what_nothing_can_be_learned_from(example, reason):
    assert encoder(100)(example) == LeftOut(reason)


def test_of_many_answers_the_empty_and_the_repeated_ones_go():
    found = encoder()(comparison("b", "", "a", "a", "c", ranks=(1, 2, 3, 0, 3), safe=(True, None, None, False, None)))
    assert [text(ids).strip() for ids, _ in found.answers] == ["b", "a", "c"]
    assert (found.ranks, found.safe, found.left_out) == ([1, 0, 3], [1, 0, -1], 2)


def test_columns_travel():
    found = encoder()(comparison("a", "b", margin=0.5, rating=2, safety=True, subset="s"))
    assert (found.margin, found.rating, found.safety, found.subset, found.label) == (0.5, 2, True, "s", -1)
    judged = Judgement(tuple(talk("q")), ({"role": "assistant", "content": "a"},), False, "x:1", True, "t")
    found = encoder()(judged)
    assert (found.label, found.safety, found.subset, found.ranks) == (0, True, "t", (0,))


def test_a_template_that_changes_the_prompt_is_refused():
    source = "{% for m in messages %}{{ loop.length ~ m.role + ':' + m.content + '\n' }}{% endfor %}"
    odd = dataclasses.replace(encoder(), template=Template("odd", source, None, "</s>"))
    example = comparison("a", "b")
    with pytest.raises(UserError, match=r"a\.jsonl:3: chat template odd: .*prompt has other tokens\n  mend"):
        odd(example)
    good = Conversation(tuple(talk("a", "b")), None, "x:1")
    found = encode_all(odd, False, [example, good])
    assert isinstance(found[0], Refused)
    assert found[0].row["answers"][0][0] == {"role": "assistant", "content": "a"}
    assert isinstance(found[1], Encoded)
    with pytest.raises(UserError):
        encode_all(odd, True, [good, example])


def test_an_encoder_goes_to_another_process(tokenizer):
    encode = Encoder(tokenizer, find_template(tokenizer, "llama3"), LONG)
    assert pickle.loads(pickle.dumps(encode))(comparison("a", "b")) == encode(comparison("a", "b"))


def test_judged_apart_two_answers_still_have_one_prompt():
    prompt, long, short = tuple(talk("x" * 60)), "a" * 40, "b"
    answers = [({"role": "assistant", "content": content},) for content in (long, short)]
    found = [
        encoder(80)(Judgement(prompt, mine, True, "x:1", beside=other)) for mine, other in (answers, answers[::-1])
    ]
    assert found[0].prompt == found[1].prompt
    assert found[0].cut
    assert found[0].prompt != encoder(80)(Judgement(prompt, answers[1], True, "x:1")).prompt
    same = Judgement(prompt, answers[1], True, "x:1", beside=answers[1])
    assert encoder()(same) == LeftOut("identical")
    assert encoder()(Unwanted("x:1")) == LeftOut("unwanted")


def test_ghost_attention_does_not_cut_words():
    messages = [
        {"role": "system", "content": "Answer"},
        *talk("Answer me", "a", "Answering machines?", "b", "Answer why"),
    ]
    found, _ = ghost(messages, (1.0,) * len(messages))
    asked = [message["content"] for message in found if message["role"] == "user"]
    assert asked == ["Answer\n\nme", "Answering machines?", "why"]
