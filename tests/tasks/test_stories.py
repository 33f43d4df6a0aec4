"""Stories and the corpus: grammatical slots, many of them, and half of the corpus each."""

import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

import jaxrl_llm
from jaxrl_llm.tasks import DRILLED, CorpusKinds, corpus
from jaxrl_llm.tasks.arithmetic import split_of
from jaxrl_llm.tasks.equations import check
from jaxrl_llm.tasks.stories import BOYS, GIRLS, story


def stories(n: int) -> list[str]:
    rng = random.Random(0)
    return [story(rng) for _ in range(n)]


def test_stories_are_many_and_their_words_several_hundred() -> None:
    several = stories(3000)
    assert len(set(several)) > 2990
    words = set(re.findall(r"[a-z]+", " ".join(several).lower()))
    assert 350 < len(words) < 1000


def test_every_slot_is_filled_and_every_sentence_well_formed() -> None:
    for text in stories(1000):
        assert not re.search(r"[{}|=]", text)
        assert re.fullmatch(r"[^\n]+[.]\n[^\n]+[.]", text)
        for sentence in re.split(r'(?<=[.])"? ', text.replace("\n", " ")):
            assert re.match(r'"?[A-Z]', sentence), sentence
        assert not re.search(r"\b[Aa] [aeiou]|\b[Aa]n [^aeiou]", text), text


def test_a_story_has_two_people_and_their_pronouns_agree() -> None:
    for text in stories(1000):
        names = set(re.findall(r"\b(?:" + "|".join(GIRLS + BOYS) + r")\b", text))
        assert len(names) == 2
        if names <= set(GIRLS):
            assert not re.search(r"\b(he|him|his)\b", text, re.IGNORECASE)
        if names <= set(BOYS):
            assert not re.search(r"\b(she|her)\b", text, re.IGNORECASE)


def test_the_corpus_is_half_stories_and_half_training_problems() -> None:
    documents = list(corpus(2000, seed=5))
    assert documents == list(corpus(2000, seed=5)) != list(corpus(2000, seed=6))
    solved = [text for text in documents if text.startswith("Question: ")]
    assert 0.45 < len(solved) / len(documents) < 0.55
    for text in solved:
        question, answer = text.removeprefix("Question: ").split("\nAnswer: ")
        assert split_of(tuple(map(int, re.findall(r"\d+", question)))) == "train"
        assert re.search(r"\n#### \d+$", answer)
    assert {text.count("<<") for text in solved} == {1, 2, 3}


def test_tasks_need_no_jax() -> None:
    code = "import sys, jaxrl_llm.tasks; print(*{name.split('.')[0] for name in sys.modules})"
    root = Path(jaxrl_llm.__file__).parents[1]
    names = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout
    assert "jaxrl_llm" in names.split()
    assert not {"jax", "flax", "optax"} & set(names.split())


def test_a_corpus_of_other_kinds_has_their_shares_and_right_sums() -> None:
    kinds = CorpusKinds(stories=0.2, drills=0.5, difficulty=2, largest=30)
    documents = list(corpus(2000, seed=5, kinds=kinds))
    stories = [text for text in documents if "<<" not in text]
    problems = [text for text in documents if text.startswith("Question: ")]
    drills = [text for text in documents if "<<" in text and not text.startswith("Question: ")]
    assert len(stories) + len(problems) + len(drills) == 2000
    assert [len(stories), len(problems), len(drills)] == pytest.approx([400, 800, 800], rel=0.15)
    assert {text.count("\n") for text in drills} == {DRILLED - 1}
    assert all(text.count("<<") == 2 for text in problems)
    assert all(equation.right for text in documents for equation in check(text))
    numbers = [int(number) for text in drills for number in re.findall(r"\d+", text)]
    assert 25 < max(numbers) <= 30
    assert re.fullmatch(r"(\d+[-+*]\d+)=<<\1=(\d+)>>\2", drills[0].split("\n")[0])
