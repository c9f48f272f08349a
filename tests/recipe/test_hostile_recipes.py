"""Texts made to do harm end early, and no text at all gives anything but a recipe or a `RecipeError`."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import pytest

from hf_distill.errors import RecipeError
from hf_distill.recipe import Recipe, document
from tests.recipe.test_bad_recipes import GOOD, OWN


def _composed(text: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many nodes are read before the text is refused."""
    count = 0
    compose = document._Loader.compose_node

    def counting(self: Any, parent: Any, index: Any) -> Any:
        nonlocal count
        count += 1
        return compose(self, parent, index)

    monkeypatch.setattr(document._Loader, "compose_node", counting)
    with pytest.raises(RecipeError):
        Recipe.from_yaml(text)
    return count


def _aliases(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "most"),
    [
        (_aliases(9), 3),  # the mapping, its first key, the anchor
        ("a: &a [*a]", 3),
        ("[" * 5000, document.MAX_DEPTH + 1),
        ("{a: " * 5000, 2 * document.MAX_DEPTH + 1),
        ("- " * 5000, document.MAX_DEPTH + 1),
        ("? " * 5000, document.MAX_DEPTH + 1),
        ("\n".join(f"k{i}: {i}" for i in range(50_000)), document.MAX_NODES + 1),
        ("[" + "x, " * 50_000 + "]", document.MAX_NODES + 1),
    ],
    ids=["aliases", "cycle", "brackets", "braces", "dashes", "question marks", "keys", "items"],
)
def test_bombs_end_early(text: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _composed(text, monkeypatch) <= most


def test_too_many_bytes_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.yaml"
    path.write_bytes(GOOD.encode() + b"#" * document.MAX_BYTES)
    monkeypatch.setattr(document, "_Loader", None)  # the parser is not even started
    with pytest.raises(RecipeError, match="more than 1000000 bytes"):
        Recipe.load(path)
    with pytest.raises(RecipeError, match="a recipe has at most 1000000"):
        Recipe.from_yaml(GOOD + "#" * document.MAX_BYTES)


def test_shared_and_cyclic_dictionaries_end_early() -> None:
    shared: Any = ["x"] * 9
    for _ in range(12):
        shared = [shared] * 9
    cleaning = document._Cleaning()
    cleaning.value(shared, (), 1)
    assert cleaning.nodes == document.MAX_NODES + 1
    with pytest.raises(RecipeError, match="more than 10000 keys and values"):
        Recipe.from_dict({"schema": shared})
    cyclic: dict[str, Any] = {}
    cyclic["schema"] = cyclic
    with pytest.raises(RecipeError, match="more than 20 levels"):
        Recipe.from_dict(cyclic)


def test_no_code_runs(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    with pytest.raises(RecipeError, match="tags"):
        Recipe.from_yaml(
            f"schema: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [{touched}]]"
        )
    assert not touched.exists()


def test_a_long_list_of_problems_is_cut() -> None:
    with pytest.raises(RecipeError) as error:
        Recipe.from_yaml(GOOD + "\n".join(f"key{i}: 1" for i in range(500)))
    assert "500 problems" in str(error.value)
    assert str(error.value).endswith("and 400 more.")
    assert len(str(error.value).splitlines()) == 102


def test_long_values_and_keys_are_cut_in_messages() -> None:
    with pytest.raises(RecipeError) as error:
        Recipe.from_yaml(GOOD.replace("sst2", "x" * 9000) + "y" * 9000 + ": 1\n")
    assert len(str(error.value)) < 1000


def _damaged(text: str, chance: random.Random) -> str:
    """The text with a few characters gone, changed or put in."""
    for _ in range(chance.randint(1, 2)):
        at, length = chance.randrange(len(text)), chance.choice([0, 1, 1, 8])
        put = chance.choice(
            [
                "",
                "\n",
                "  ",
                ":",
                "- ",
                "{",
                "}",
                "[",
                "]",
                "'",
                '"',
                "&a ",
                "*a",
                "!",
                "~",
                "9",
                "x",
                "\0",
                "#",
                "|",
                "é",
            ]
        )
        text = text[:at] + put + text[at + length :]
    return text


def test_damaged_texts_are_read_or_refused() -> None:
    chance = random.Random(0)
    refusals, read = [], 0
    for _ in range(400):
        text = _damaged(chance.choice([GOOD, OWN, CHAIN]), chance)
        try:
            recipe = Recipe.from_yaml(text, "damaged.yaml")
        except RecipeError as error:
            refusals.append((str(error), text))
        else:
            assert Recipe.from_yaml(recipe.to_yaml()) == recipe
            read += 1
    assert [refusal for refusal in refusals if not refusal[0].startswith("damaged.yaml: ")] == []
    assert read > 5
    assert len(refusals) > 200


CHAIN = """
schema: 1
task: sst2
teacher:
  ensemble:
    members:
      a: {model: some/teacher}
      b: {model: other/teacher, revision: main}
    weights: [1.0, 2.0]
student: {from_layers: {layers: 3}}
stages:
  - name: first
    objectives:
      - {soft_targets: {}}
      - {hidden_mse: {}, on: a}
  - name: second
    teacher: previous
    student: fresh
    objectives: [{soft_targets: {}}]
  - name: third
    teacher: first
    student: {model: some/student}
    objectives: [{labels: {}}]
"""
"""Several teachers, and stages that learn from each other."""

VALUES: list[Any] = [
    None,
    True,
    0,
    -1,
    1.5,
    10**30,
    "",
    "x",
    [],
    [1],
    {},
    {"x": 1},
    [[]],
    {"weight": {}},
    [None],
    ["all"],
]


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in _places(item, (*path, key)))]


@pytest.mark.parametrize("text", [GOOD, OWN, CHAIN])
def test_wrong_kinds_anywhere_are_refused_or_read(text: str) -> None:
    good = Recipe.from_yaml(text).to_dict()
    places = _places(good)[1:]
    assert len(places) > 15
    refusals = []
    for *before, last in places:
        for value in VALUES:
            data = copy.deepcopy(good)
            holder = data
            for key in before:
                holder = holder[key]
            holder[last] = value
            try:
                recipe = Recipe.from_dict(data)
            except RecipeError as error:
                refusals.append(str(error))
            else:
                assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert [refusal for refusal in refusals if not refusal.startswith("recipe: ")] == []
    assert len(refusals) > len(places)
