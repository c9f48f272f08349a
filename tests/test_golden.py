"""Losses, gradients and values against stored ones that were computed outside this package, in float64 and float32."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from hf_distill.layer_map import LayerMap
from tests.golden_cases import BUILDERS, VALUES
from tests.golden_cases.base import Inputs, Setup

GOLDEN = Path(__file__).parent / "golden"
FILES = {
    name: json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    for name in ("response", "families", "relations", "schemes")
}
TOLERANCE = FILES["response"]["about"]["tolerance"]
CASES = [(name, case) for name, file in FILES.items() for case in [*file["cases"], *file.get("parts", [])]]
LAYER_MAPS = [case for _, case in CASES if case.get("method") == "layer_map"]
LOSSES = [(name, case) for name, case in CASES if case.get("method") in BUILDERS]
MASKED = [case for name, case in LOSSES if name == "relations" and "mask" in case["inputs"]]


def method_of(case: dict[str, Any]) -> str:
    """The method of a case; a part has its own id alone, `delta_weights-paper`."""
    return case.get("method") or case["id"].rpartition("-")[0]


ELSEWHERE = {"layer_map", "mlm_sampling_weights"}
"""Tested by functions of their own, here and in `data/test_masking.py`."""
VALUED = [(name, case) for name, case in CASES if method_of(case) in VALUES]


def ident(given: Any) -> str:
    return given[1]["id"] if isinstance(given, tuple) else given["id"]


def close(found: Tensor, expected: Any, tolerance: float, floor: float = 1.0) -> None:
    """|found - expected| <= tolerance * max(floor, largest |expected|), the rule in the files' heads."""
    wanted = torch.tensor(expected, dtype=torch.float64)
    assert found.shape == wanted.shape
    worst = float((found.detach().double() - wanted).abs().max()) if wanted.numel() else 0.0
    largest = float(wanted.abs().max()) if wanted.numel() else 0.0
    assert worst <= tolerance * max(floor, largest), worst


def tolerances(file: str, precision: str) -> tuple[float, float, float]:
    """For the loss, for gradients, and the size below which gradients are compared absolutely."""
    if file == "relations":
        both = FILES["relations"]["tolerance"][precision]
        return both, both, 1e-3
    if file == "schemes":
        both = {"float64": 1e-6, "float32": 1e-5}[precision]
        return both, both, 1.0
    return TOLERANCE[precision]["loss"], TOLERANCE[precision]["grad"], 1.0


def check(file: str, case: dict[str, Any], inputs: Inputs, precision: str, columns: tuple[int, int] = (0, 0)) -> None:
    """Loss and gradients of a case, some `columns` of padding added on the left and on the right."""
    setup: Setup = BUILDERS[case["method"]](dict(case["settings"]), inputs)
    loss = setup.loss()
    loss.backward()
    for_loss, for_gradients, floor = tolerances(file, precision)
    close(loss, case["expected"]["loss"], for_loss)
    for name in inputs.leaves.keys() | setup.leaves.keys():
        gradient = setup.leaves[name].grad
        assert gradient is None or gradient.isfinite().all(), name
    for name, expected in inputs.wanted.items():
        found = setup.leaves[name].grad
        assert found is not None, name
        found = found.T if name == "projection" else found
        if sum(columns) and found.dim() > 1 and found.shape[1] == inputs["mask"].shape[1]:
            left, right = columns[0], found.shape[1] - columns[1]
            assert not found[:, :left].any()
            assert not found[:, right:].any()
            found = found[:, left:right]
        close(found, expected, for_gradients, floor)


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("given", LOSSES, ids=ident)
def test_loss_and_gradients(given: tuple[str, dict[str, Any]], precision: str) -> None:
    file, case = given
    check(file, case, Inputs(case, getattr(torch, precision)), precision)


@pytest.mark.parametrize("padding", [1e4, float("nan")])
@pytest.mark.parametrize("case", MASKED, ids=ident)
def test_padding_changes_nothing(case: dict[str, Any], padding: float) -> None:
    """What stands in padded positions, and two more columns of it on either side."""
    for columns in ((0, 0), (0, 2), (2, 0)):
        check("relations", case, padded(case, padding, columns), "float64", columns)


def padded(case: dict[str, Any], value: float, columns: tuple[int, int]) -> Inputs:
    inputs = Inputs(case, torch.float64)
    mask = inputs["mask"]
    for name, tensor in list(inputs.values.items()):
        layered = tensor.dim() == 4 and tensor.shape[1:3] == mask.shape
        if name == "mask" or not (tensor.shape[:2] == mask.shape or layered):
            continue
        real = mask.bool().reshape(*mask.shape, *[1] * (tensor.dim() - (3 if layered else 2)))
        amounts = [0, 0] * (tensor.dim() - (3 if layered else 2)) + list(columns)
        filler = value if tensor.is_floating_point() else 0
        with torch.no_grad():
            changed = functional.pad(torch.where(real, tensor.detach(), filler), amounts, value=filler)
        inputs.values[name] = changed
        if name in inputs.leaves:
            inputs.leaves[name] = changed.requires_grad_()
    inputs.values["mask"] = functional.pad(mask, columns)
    return inputs


@pytest.mark.parametrize("given", VALUED, ids=ident)
def test_values(given: tuple[str, dict[str, Any]]) -> None:
    file, case = given
    inputs = {name: as_tensor(value) for name, value in case["inputs"].items()}
    found = VALUES[method_of(case)](dict(case.get("settings", {})), inputs)
    alike(found, case["expected"], 1e-6 if file == "schemes" else 1e-9)


def as_tensor(value: Any) -> Any:
    """Numbers as a tensor, in float64 where they are not whole; what is ragged or has words stays as it is."""
    try:
        tensor = torch.tensor(value)
        return tensor.new_tensor(value, dtype=torch.float64) if tensor.is_floating_point() else tensor
    except (TypeError, ValueError, RuntimeError):
        return value


def alike(found: Any, expected: Any, tolerance: float) -> None:
    if isinstance(expected, dict):
        for name, value in expected.items():
            alike(found[name], value, tolerance)
        return
    if isinstance(expected, list) and not isinstance(found, Tensor):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            alike(one, other, tolerance)
        return
    if isinstance(expected, int | float | list) and not isinstance(expected, bool):
        close(torch.as_tensor(found), expected, tolerance)
        return
    assert found == expected


@pytest.mark.parametrize("case", LAYER_MAPS, ids=lambda case: case["id"])
def test_layer_map(case: dict[str, Any]) -> None:
    settings = case["settings"]
    found = LayerMap.resolve(settings["kind"], settings["n_student"], settings["n_teacher"])
    assert [list(pair) for pair in found] == case["expected"]["values"]


def test_every_case_is_run() -> None:
    methods = {method_of(case) for _, case in CASES}
    assert methods == BUILDERS.keys() | VALUES.keys() | ELSEWHERE
    assert FILES["families"]["about"]["tolerance"] == TOLERANCE
    assert len(CASES) == len({case["id"] for _, case in CASES})
