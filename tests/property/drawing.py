"""Draws recipes out of their JSON schema: mostly of the kinds that it asks for, here and there something else."""

from __future__ import annotations

import math
from inspect import signature
from typing import Any

from hypothesis import strategies as st

from hf_distill import objectives
from tests.contract.worlds import POOL

JUNK: list[Any] = [
    None, True, -1, 0, 1, 2**70, -1.5, math.nan, math.inf, "", "x", "1e-4", "a\nb", "\0", "\ud800", "../x",
    "/etc/passwd", "<script>", "!!python/name:os.system", "&a", "*a", "hf_" + "a" * 30, [], [[]], {},
    {"": ""}, {1: 2}, [None], b"x", {"weight": 1}, (1, 2), {"soft_targets": {}},
]  # fmt: skip
NAMES = ["distil", "warm", "a1", "text"]
WORDS = ["x", "a/b", "distil", "label", "text", "1", "train", "main", "layer.0", "no", "layer.[0-5]", ".*", "é"]
DEEPEST = 12


class Drawing:
    """Draws values of the nodes of a schema; `astray` of 100 are junk."""

    def __init__(self, draw: Any, schema: dict[str, Any], astray: int) -> None:
        self.draw, self.definitions, self.astray = draw, schema.get("$defs", {}), astray

    def chance(self, percent: int) -> bool:
        return bool(self.draw(st.integers(0, 99)) < percent)

    def value(self, node: Any, depth: int = 0) -> Any:
        if self.chance(self.astray) or not isinstance(node, dict) or depth > DEEPEST:
            return self.draw(st.sampled_from(JUNK))
        if "$ref" in node:
            name = node["$ref"].rpartition("/")[2]
            term = name == "WeightedObjective" and not self.chance(self.astray)
            return self._term() if term else self.value(self.definitions[name], depth + 1)
        if "const" in node:
            return node["const"]
        if "enum" in node:
            return self.draw(st.sampled_from(node["enum"]))
        for key in ("anyOf", "oneOf", "allOf"):
            if key in node:
                return self.value(self.draw(st.sampled_from(node[key])), depth + 1)
        kind = node.get("type", "string")
        kind = self.draw(st.sampled_from(kind)) if isinstance(kind, list) else kind
        made: Any = getattr(self, f"_{kind}")(node, depth)
        return made

    def _object(self, node: dict[str, Any], depth: int) -> dict[str, Any]:
        known, needed = node.get("properties", {}), node.get("required", [])
        chosen = [name for name in known if name in needed or self.chance(8)]
        found = {name: self.value(known[name], depth + 1) for name in chosen}
        others = node.get("additionalProperties")
        if isinstance(others, dict) and self.chance(50):
            found[self.draw(st.sampled_from(WORDS))] = self.value(others, depth + 1)
        if self.chance(self.astray):
            found[self.draw(st.sampled_from(WORDS))] = self.draw(st.sampled_from(JUNK))
        return found

    def _array(self, node: dict[str, Any], depth: int) -> list[Any]:
        if "prefixItems" in node:
            return [self.value(item, depth + 1) for item in node["prefixItems"]]
        number = self.draw(st.integers(node.get("minItems", 0), max(node.get("minItems", 0), 3)))
        return [self.value(node.get("items"), depth + 1) for _ in range(number)]

    def _string(self, node: dict[str, Any], depth: int) -> str:
        word: str = self.draw(st.sampled_from(NAMES if self.chance(80) else WORDS))
        return word

    def _term(self) -> dict[str, Any]:
        """An objective with settings that it has, or with anything in their place."""
        name = self.draw(st.sampled_from(objectives.names()))
        own = signature(objectives.get(name)).parameters
        known = [{}, *(settings for settings in POOL if settings.keys() <= own.keys())]
        settings = dict(self.draw(st.sampled_from(known)))
        if own and self.chance(self.astray):
            settings[self.draw(st.sampled_from(sorted(own)))] = self.draw(st.sampled_from(JUNK))
        weight = {"weight": self.draw(st.sampled_from([0.5, 2, {"linear": {"from": 1, "to": 0}}]))}
        return {name: settings, **(weight if self.chance(50) else {})}

    def _integer(self, node: dict[str, Any], depth: int) -> int:
        whole: int = self.draw(st.integers(int(node.get("minimum", 0)), int(node.get("maximum", 9))))
        return whole

    def _number(self, node: dict[str, Any], depth: int) -> float:
        number: float = self.draw(st.floats(float(node.get("minimum", 0)), float(node.get("maximum", 9))))
        return number

    def _boolean(self, node: dict[str, Any], depth: int) -> bool:
        return self.chance(50)

    def _null(self, node: dict[str, Any], depth: int) -> None:
        return None


@st.composite
def recipes(draw: Any, schema: dict[str, Any]) -> Any:
    """A recipe as plain values; some are drawn without anything that is not of its kind."""
    return Drawing(draw, schema, draw(st.sampled_from([0, 0, 2, 10]))).value(dict(schema))
