"""Recipes side by side: what a metric is made of, the log of the runs, differences and tables."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from hf_distill.errors import DataError
from hf_distill.evaluation import compare, evidence
from hf_distill.evaluation.compare import Log, Run, compared, difference, markdown, write
from hf_distill.evaluation.evidence import Evidence


def right(*rows: int) -> Evidence:
    return Evidence("mean", np.array(rows, dtype=float)[:, None])


def scored(name: str, seed: int, *rows: int, **more: Any) -> Run:
    evidence = right(*rows)
    facts = {"outcome": "scored", "metric": "accuracy", "kind": "mean", "rows": evidence.rows.tolist()}
    return Run(name=name, seed=seed, recipe="0", value=evidence.value(), **{**facts, **more})


NAMES = {"control": "labels", "reference": "soft_targets"}

# ---- evidence ----


def test_metrics_follow_from_their_evidence() -> None:
    assert right(1, 0, 1, 1).value() == 0.75
    counts = np.array([[1, 2, 1], [0, 1, 2], [2, 2, 2]], dtype=float)
    assert Evidence("entities", counts).value() == 2 * 3 / (5 + 5)
    assert Evidence("entities", np.array([[0.0, 0.0, 3.0]])).value() == 0.0
    labels = np.array([[1, 1], [0, 1], [0, 0], [1, 0], [1, 1]], dtype=float)
    found = Evidence("matthews_correlation", labels)
    assert found.value() == pytest.approx(matthews_corrcoef(labels[:, 1], labels[:, 0]))
    scores = np.array([[0.1, 1.0], [0.4, 2.0], [0.5, 3.0], [0.2, 0.0]])
    assert Evidence("pearson", scores).value() == pytest.approx(np.corrcoef(scores.T)[0, 1])


def test_a_metric_is_taken_over_the_rows_that_are_chosen() -> None:
    assert right(1, 0, 1, 1).value(np.array([1, 1, 2])) == pytest.approx(1 / 3)


def labels_of(classes: int) -> np.ndarray:
    """Predictions and labels of 60 rows, of which about half agree."""
    random = np.random.default_rng(classes)
    truth, guess = random.integers(0, classes, size=(2, 60))
    return np.stack([np.where(random.random(60) < 0.4, truth, guess), truth], axis=1).astype(float)


def scores_of(ties: bool) -> np.ndarray:
    """Two columns that go together, with or without equal values among them."""
    random = np.random.default_rng(5)
    found = random.normal(size=(60, 2)) + random.normal(size=(60, 1))
    return found.round(0) if ties else found


CHOSEN = [np.random.default_rng(seed).integers(0, 60, size=60) for seed in range(20)]


@pytest.mark.parametrize(("kind", "rows", "library"), [
    ("accuracy", labels_of(3), lambda x, y: accuracy_score(y, x)),
    ("f1", labels_of(2), lambda x, y: f1_score(y, x)),
    ("matthews_correlation", labels_of(2), lambda x, y: matthews_corrcoef(y, x)),
    ("matthews_correlation", labels_of(5), lambda x, y: matthews_corrcoef(y, x)),
    ("pearson", scores_of(ties=False), lambda x, y: stats.pearsonr(x, y)[0]),
    ("pearson", scores_of(ties=False) + 1e6, lambda x, y: stats.pearsonr(x, y)[0]),
    ("spearmanr", scores_of(ties=False), lambda x, y: stats.spearmanr(x, y)[0]),
    ("spearmanr", scores_of(ties=True), lambda x, y: stats.spearmanr(x, y)[0]),
])  # fmt: skip
def test_rows_drawn_anew_have_the_value_of_the_libraries(kind: str, rows: np.ndarray, library: Any) -> None:
    evidence = Evidence(kind, rows)
    for chosen in CHOSEN:
        assert evidence.value(chosen) == pytest.approx(library(*rows[chosen].T), abs=1e-12)
    assert evidence.value(np.arange(60)) == pytest.approx(evidence.value(), abs=1e-12)


@pytest.mark.parametrize("kind", ["f1", "matthews_correlation", "pearson", "spearmanr"])
def test_constant_predictions_are_noted_once_and_not_at_each_resample(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    rows = np.stack([np.zeros(7), np.arange(7) % 2], axis=1)
    rows[:, 0] += 0.1 * (kind in ("pearson", "spearmanr"))
    one, other = Evidence(kind, rows), Evidence(kind, rows)
    assert difference([(one, other)]) == (0.0, 0.0, 0.0)
    assert (one.value(), other.value()) == (0.0, 0.0)
    assert len(caplog.records) == (0 if kind in ("f1", "matthews_correlation") else 2), "one for each model"


def test_resamples_do_without_the_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """scikit-learn's own function looks at its arguments in each of thousands of resamples; it has all rows alone."""
    seen: list[int] = []
    library = evidence.KINDS["matthews_correlation"]

    def counted(rows: np.ndarray) -> float:
        seen.append(len(rows))
        return library(rows)

    monkeypatch.setitem(evidence.KINDS, "matthews_correlation", counted)
    random = np.random.default_rng(0)
    one, other = (Evidence("matthews_correlation", random.integers(0, 2, (50, 2)).astype(float)) for _ in range(2))
    value, low, high = difference([(one, other)])
    assert low < value < high
    assert seen == [50, 50]


@pytest.mark.parametrize(("kind", "rows", "found"), [
    ("bleu", [[1.0]], "bleu"),
    ("mean", [[1.0, 2.0]], r"\[1, 2\]; expected numbers \[rows, 1\]"),
    ("accuracy", [[1.0, 2.0, 3.0]], r"\[1, 3\]; expected numbers \[rows, 2\]"),
    ("entities", np.zeros((0, 3)), r"\[0, 3\]"),
    ("mean", [[float("nan")]], "NaN"),
])  # fmt: skip
def test_other_evidence_is_refused(kind: str, rows: Any, found: str) -> None:
    with pytest.raises(DataError, match=found):
        Evidence(kind, np.asarray(rows))


# ---- the log ----


def test_a_run_comes_back_from_the_log(tmp_path: Path) -> None:
    log = Log(tmp_path / "folder" / "runs.jsonl")
    assert log.read() == {}
    runs = [
        scored("pkt", 1, 1, 0, steps=5, cpu_seconds=0.25, peak_bytes=7),
        Run(name="dkd", seed=0, recipe="a", outcome="refused", message="two classes\nhave no others"),
    ]
    for run in runs:
        log.add(run)
    found = list(log.read().values())
    assert found[0] == runs[0]
    assert (found[1].key, found[1].message) == (runs[1].key, runs[1].message)
    assert all(json.loads(line) for line in log.path.read_text(encoding="utf-8").splitlines())


def test_a_run_that_was_made_again_takes_the_place_of_the_first(tmp_path: Path) -> None:
    log = Log(tmp_path / "runs.jsonl")
    log.add(Run(name="pkt", seed=0, recipe="0", outcome="failed", message="out of memory"))
    log.add(scored("pkt", 0, 1, 1))
    log.add(scored("pkt", 1, 1, 0))
    assert [run.outcome for run in log.read().values()] == ["scored", "scored"]


def test_a_line_that_was_broken_off_is_dropped(tmp_path: Path) -> None:
    log = Log(tmp_path / "runs.jsonl")
    log.add(scored("pkt", 0, 1))
    whole = log.path.read_bytes()
    log.add(scored("cka", 0, 1))
    log.path.write_bytes(log.path.read_bytes()[:-9])
    assert [run.name for run in log.read().values()] == ["pkt"]
    log.add(scored("crd", 0, 1))
    assert [run.name for run in log.read().values()] == ["pkt", "crd"]
    assert log.path.read_bytes().startswith(whole)


@pytest.mark.parametrize("line", ["[]", "{", '{"name": "pkt"}', '{"name": "pkt", "seed": 0, "recipe": "", "x": 1}',
                                  '{"name": "pkt", "seed": 0, "recipe": "", "outcome": "won"}'])  # fmt: skip
def test_a_foreign_line_is_named(tmp_path: Path, line: str) -> None:
    log = Log(tmp_path / "runs.jsonl")
    log.add(scored("pkt", 0, 1))
    log.path.write_text(log.path.read_text() + line + "\n")
    with pytest.raises(DataError, match="line 2"):
        log.read()


def test_a_line_that_is_no_text_is_named(tmp_path: Path) -> None:
    log = Log(tmp_path / "runs.jsonl")
    log.add(scored("pkt", 0, 1))
    log.path.write_bytes(log.path.read_bytes() + b'{"name": "\xff\xfe"}\n')
    with pytest.raises(DataError, match="line 2: no run of a comparison"):
        log.read()


@pytest.mark.parametrize(("rows", "found"), [("[[1.0], [1.0, 0.0]]", "inhomogeneous"), ("[]", r"shape \[0\]")])
def test_rows_that_are_no_evidence_are_named_by_their_line(tmp_path: Path, rows: str, found: str) -> None:
    log = Log(tmp_path / "runs.jsonl")
    log.add(scored("pkt", 0, 1))
    line = '{"name": "cka", "seed": 0, "recipe": "r", "outcome": "scored", "kind": "mean", "rows": %s}\n'
    log.path.write_text(log.path.read_text() + line % rows)
    with pytest.raises(DataError, match=f"line 2: no run of a comparison .*{found}"):
        log.read()


# ---- differences ----


def test_the_difference_is_the_mean_over_seeds() -> None:
    pairs = [(right(1, 1, 1, 0), right(1, 0, 0, 0)), (right(1, 1, 0, 0), right(1, 1, 1, 0))]
    found = difference(pairs)
    assert found.value == pytest.approx((0.5 - 0.25) / 2)
    assert found.low <= found.value <= found.high
    assert found == difference(pairs)


def test_the_interval_of_one_seed_is_that_of_rows_drawn_anew() -> None:
    """A difference of means of row values d: its standard error is that of d over the root of the rows."""
    random = np.random.default_rng(3)
    ours, theirs = (random.integers(0, 2, size=400) for _ in range(2))
    found = difference([(right(*ours), right(*theirs))])
    error = np.std(ours - theirs) / np.sqrt(400)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_seeds_that_differ_widen_the_interval() -> None:
    worse, better = (right(*[0] * 40), right(*[1] * 40)), (right(*[1] * 40), right(*[0] * 40))
    found = difference([worse, better, better])
    assert (found.low, found.high) == (-1.0, 1.0)
    assert found.value == pytest.approx(1 / 3)


def test_models_answer_the_same_rows() -> None:
    with pytest.raises(DataError, match=r"mean \[2, 1\], mean \[3, 1\]"):
        difference([(right(1, 0), right(1, 0, 1))])
    with pytest.raises(DataError, match="other rows"):
        difference([])


# ---- the table ----


def runs() -> list[Run]:
    return [
        scored("teacher", 0, 1, 1, 1, 1, peak_bytes=10**6),
        *(scored("labels", seed, 1, 0, 0, 1, steps=10, cpu_seconds=0.1) for seed in (0, 1)),
        *(scored("soft_targets", seed, 1, 1, 0, 1, steps=10, cpu_seconds=0.2) for seed in (0, 1)),
        scored("pkt", 0, 1, 1, 1, 1, steps=10, cpu_seconds=0.5, peak_bytes=3 * 10**6),
        scored("pkt", 2, 0, 0, 0, 0, steps=10, cpu_seconds=0.7, peak_bytes=2 * 10**6),
        Run(name="dkd", seed=0, recipe="", outcome="refused", message="two | classes"),
    ]


def test_rows_are_means_over_seeds_and_leads_over_common_ones() -> None:
    rows = {row.name: row for row in compared(runs(), **NAMES)}
    assert list(rows) == ["teacher", "labels", "soft_targets", "pkt", "dkd"]
    assert rows["labels"].difference is None
    assert rows["soft_targets"].difference is not None
    assert rows["soft_targets"].difference.value == 0.25
    pkt = rows["pkt"]
    assert (pkt.values, pkt.mean, pkt.spread) == ((1.0, 0.0), 0.5, statistics.stdev([1.0, 0.0]))
    assert pkt.singles == (0.5,)  # the control has no seed 2
    assert pkt.cpu_seconds == pytest.approx(0.6)
    assert pkt.cost == pytest.approx(3.0)
    assert pkt.peak_bytes == 3 * 10**6
    assert rows["dkd"].message == "two | classes"
    assert rows["teacher"].cost is None


def test_the_table_tells_what_was_not_run() -> None:
    table = markdown(compared(runs(), **NAMES), "accuracy", **NAMES)
    lines = table.splitlines()
    widths = {line.replace("\\|", "").count("|") for line in lines if line.startswith("|")}
    assert widths == {9}
    (pkt,) = (line for line in lines if line.startswith("| `pkt` |"))
    assert "0.5000 (0.7071)" in pkt
    assert "| 3.00 | 3 |" in pkt
    assert lines[-3:] == ["Not run:", "", "- `dkd`: two \\| classes"]


@pytest.mark.draws
def test_files_are_written(tmp_path: Path) -> None:
    written = write(tmp_path, compared(runs(), **NAMES), "accuracy", **NAMES)
    assert [path.name for path in written] == ["comparison.md", "comparison.json", "comparison.png"]
    assert written[2].read_bytes().startswith(b"\x89PNG")
    plain = {row["name"]: row for row in json.loads(written[1].read_text())["rows"]}
    assert plain["soft_targets"]["difference"]["value"] == 0.25
    assert plain["pkt"]["values"] == [1.0, 0.0]
    assert "mean" not in plain["dkd"]


@pytest.mark.parametrize(
    ("metric", "first"), [("accuracy", "pkt"), ("wer", "soft_targets"), ("eval_perplexity", "soft_targets")]
)
def test_the_best_is_on_top_whichever_way_a_metric_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: str, first: str
) -> None:
    drawn: list[str] = []

    def differences(found: Sequence[Any], title: str, cost_title: str) -> bytes:
        drawn.extend(each.name for each in found)
        return b""

    monkeypatch.setattr(compare.figures, "differences", differences)
    rows = [row for row in compared(runs(), **NAMES) if row.name in ("soft_targets", "pkt")]
    table = write(tmp_path, rows, metric, **NAMES)[0].read_text()
    assert drawn[0] == first
    assert ("less is better" in table) == (metric != "accuracy")


def test_there_is_no_picture_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    written = write(tmp_path, compared(runs(), **NAMES), "accuracy", **NAMES)
    assert [path.suffix for path in written] == [".md", ".json"]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('{"name": "a", "seed": 0, "recipe": "r", "outcome": "scored", "value": "much"}', "value: "),
        ('{"name": "a", "seed": 0, "recipe": "r", "outcome": "scored", "steps": -1}', "steps: "),
        ('{"name": "a", "seed": 0, "recipe": "r", "outcome": "scored", "cpu_seconds": 1e999}', "cpu_seconds: "),
        ('{"name": "a", "seed": 0, "recipe": "r", "outcome": "scored", "rows": [["x"]]}', r"rows\.0\.0: "),
        ('{"name": "a", "seed": 0, "recipe": "r", "outcome": "scored", "more": 1}', "'more'"),
        ("[" * 100_000, "recursion"),
        ("[]", "mapping"),
    ],
)
def test_numbers_that_no_run_has_are_refused(tmp_path: Path, line: str, found: str) -> None:
    log = Log(tmp_path / "runs.jsonl")
    log.path.write_text(line + "\n")
    with pytest.raises(DataError, match=rf"line 1: no run of a comparison \(.*{found}.*remove the line"):
        log.read()
