"""Reports drawn again from the folders of runs, and what a run leaves for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hf_distill.commands.main import main
from hf_distill.errors import DistillationError
from hf_distill.evaluation import report
from hf_distill.evaluation.findings import Findings
from hf_distill.evaluation.report import write_findings
from hf_distill.runs import reporting
from hf_distill.runs.folder import RunFolder, write_json
from hf_distill.runs.reporting import draw_report
from hf_distill.runs.results import RunResult
from tests import reports


def left_by(folder: Path, **changes: Any) -> Path:
    """The folder of a finished run, as far as reports read it."""
    result = RunResult(folder, "validation", "accuracy", tuple(reports.three()), {}, ("All on sst2.",))
    (folder / "stages").mkdir(parents=True)
    RunFolder(folder).keep_results(result.to_dict() | changes)
    write_findings(folder, Findings(likeness=reports.findings().likeness))
    return folder


def test_the_report_of_a_run_is_drawn_from_what_it_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left_by(tmp_path / "run")
    assert main(["report", str(tmp_path / "run")]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[-1] == str(tmp_path / "run" / "report.html")
    assert str(tmp_path / "run" / "report" / "layers.png") in shown
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "All on sst2." in page
    assert "How alike the layers are" in page


def test_runs_in_a_folder_are_drawn_on_one_page(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("b", "a/deep"):
        left_by(tmp_path / name)
    (tmp_path / "unfinished" / "stages").mkdir(parents=True)
    left_by(tmp_path / "b" / "stages" / "inside")
    (tmp_path / "b" / "report" / "data.json").unlink()
    draw_report(tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.index("a/deep (student)") < page.index("b (student)")
    assert page.count("<details>") == 2
    assert "inside" not in page
    assert page.count("<h3>How alike the layers are</h3>") == 1
    assert f"{tmp_path / 'unfinished'}: no results" in caplog.text


CUT = {"split": {"validation": 0.1, "seed": 0}}


def of_data(folder: Path, sums: dict[str, str], size: int = 9, note: str = "All.", **recipe: Any) -> None:
    left_by(folder, notes=[note])
    write_json(folder / "distillation.json", {"data": {"sizes": {"validation": size}}})
    write_json(folder / "stages" / "run.json", {"recipe": recipe, "sources": sums})


TRAIN, OWN = {"train": "1"}, {"train": "1", "validation": "2"}
TEXT = {"task": "masked_lm", "packing": "full", "held_out": 1000, "train": [{"files": ["a.txt"], "unit": "line"}]}


def of_text(sums: dict[str, str] = TRAIN, max_length: int = 128, **settings: Any) -> dict[str, Any]:
    return {"sums": sums, "max_length": max_length, "data": {"text": {**TEXT, **settings}}}


def translated(source: str, target: str, **settings: Any) -> dict[str, Any]:
    columns = {"source_column": source, "target_column": target}
    return {"sums": OWN, "data": {"translation": {**columns, **settings}}}


def tagged(column: str, **settings: Any) -> dict[str, Any]:
    return {"sums": OWN, "data": {"token_classification": {"tags_column": column, **settings}}}


def of_pairs(**settings: Any) -> dict[str, Any]:
    return {"sums": OWN, "data": {"embeddings": settings}}


@pytest.mark.parametrize(("one", "other", "chapters"), [
    ({"sums": {"train": "1", "validation": "2"}}, {"sums": {"train": "9", "validation": "2"}}, 1),
    ({"sums": {"validation": "2"}}, {"sums": {"validation": "3"}}, 2),
    ({"sums": {"validation": "2"}}, {"sums": {"validation": "2"}, "note": "All on another name."}, 1),
    ({"sums": {"validation": "2"}}, {"sums": {"validation": "2"}, "max_samples": {"validation": 5}}, 2),
    ({"sums": {"validation": "2"}}, {"sums": {"validation": "2"}, "max_samples": {"train": 5}}, 1),
    ({"sums": {"train": "1"}, "data": CUT}, {"sums": {"train": "1"}, "data": {"split": {"seed": 1}}}, 2),
    ({"sums": {"train": "1"}, "data": CUT}, {"sums": {"train": "2"}, "data": CUT}, 2),
    ({"sums": {"validation": "2"}, "data": {"label_column": "a"}},
     {"sums": {"validation": "2"}, "data": {"label_column": "b"}}, 2),
    (of_text(), of_text(), 1),
    (of_text(), of_text(held_out=10), 2),
    (of_text(), of_text(max_length=512), 2),
    (of_text(), of_text(task="causal_lm"), 2),
    (of_text(), of_text(packing="none"), 2),
    (of_text(), of_text(train=[{"files": ["a.txt"], "unit": "paragraph"}]), 2),
    (of_text(), of_text(train=[{"files": ["b.txt"], "unit": "line"}], cache_dir="c", shuffle=7), 1),
    (of_text(OWN), of_text(OWN, held_out=10, streaming=True, train=[{"unit": "paragraph"}]), 1),
    (of_text(OWN), of_text(OWN, validation=[{"documents": 9}]), 2),
    (translated("en", "de"), translated("de", "en"), 2),
    (translated("en", "de"), translated("en", "de", prefix="to German: ", generate={"beams": 4}), 1),
    (translated("en", "de"), {**translated("en", "de"), "max_length": 9}, 2),
    (tagged("pos"), tagged("ner"), 2),
    (tagged("pos"), tagged("pos", label_all_tokens=True, tag_names=["a"]), 1),
    (of_pairs(score_column="a"), of_pairs(score_column="b"), 2),
    (of_pairs(text_columns=["a", "b", "c"]), of_pairs(text_columns=["a"], pair_columns=["a", "b"]), 1),
    ({"sums": {"validation": "2"}, "max_length": 64}, {"sums": {"validation": "2"}, "max_length": 128}, 1),
    ({"sums": {"validation": "2"}, "data": {"where": {"a": 1}}}, {"sums": {"validation": "2"}, "data": {}}, 2),
    ({"sums": {"validation": "2"}, "size": 1900}, {"sums": {"validation": "2"}, "size": 1902}, 2),
])  # fmt: skip
def test_runs_are_compared_on_the_same_rows_whatever_their_files_are_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one: dict[str, Any], other: dict[str, Any], chapters: int
) -> None:
    monkeypatch.setattr(report, "pictures", lambda *args: [])
    monkeypatch.setattr(report, "of_findings", lambda findings: [])
    of_data(tmp_path / "one", **one)
    of_data(tmp_path / "other", **other)
    draw_report(tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert ("2. accuracy" in page) == (chapters == 2)


def test_values_of_the_same_objectives_alone_are_compared(tmp_path: Path) -> None:
    """The metric of models without a head is the value of their objectives, which also stands in the first note."""
    runs = [{**reports.RUN, "metrics": {"loss": 0.5}}]
    for name, term in (("a", "minilm"), ("b", "minilm"), ("c", "hidden_mse")):
        left_by(tmp_path / name, metric="loss", runs=runs, notes=[f"The objectives' weighted sum: {name}."])
        stages = [{"objectives": [{term: {}}]}]
        identity = {"recipe": {"stages": stages}, "sources": {"validation": "2"}}
        write_json(tmp_path / name / "stages" / "run.json", identity)
    draw_report(tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert ("2. loss" in page, "3. loss" in page) == (True, False)


def test_a_run_below_the_fifth_folder_is_not_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left_by(tmp_path / "1/2/3/4/5/6")
    with pytest.raises(DistillationError, match="holds no finished run, and neither do the folders in it"):
        draw_report(tmp_path)
    left_by(tmp_path / "1/2/3/4/run")
    monkeypatch.setattr(reporting, "write_comparison", lambda place, found: [each.name for each in found])
    assert draw_report(tmp_path) == ["1/2/3/4/run"]


def test_links_are_not_followed(tmp_path: Path) -> None:
    left_by(tmp_path / "outside" / "run")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(DistillationError, match="holds no finished run"):
        draw_report(tmp_path / "runs")


def test_what_holds_no_report_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path / "none")]) == 2
    assert "is not a folder" in capsys.readouterr().err
    (tmp_path / "run" / "stages").mkdir(parents=True)
    assert main(["report", str(tmp_path / "run")]) == 2
    shown = capsys.readouterr().err
    assert "holds a run that is not finished" in shown
    assert shown.count("error:") == 1
    assert not (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"runs": [{"name": "x"}]}, r"runs\.0\.role: Field required"),
        ({"runs": [{**reports.RUN, "role": "cat"}]}, r"runs\.0\.role: Input should be 'teacher'"),
        ({"runs": [{**reports.RUN, "metrics": {"accuracy": "high"}}]}, r"runs\.0\.metrics\.accuracy"),
        ({"runs": [{**reports.RUN, "interval": [1.0]}]}, r"runs\.0\.interval"),
        ({"runs": [{**reports.RUN, "latency": {"low": 1.0}}]}, r"runs\.0\.latency"),
        ({"runs": None}, "runs: Input should be a valid tuple"),
        ({"notes": [1]}, r"notes\.0"),
    ],
)
def test_results_that_are_none_of_ours_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    left_by(tmp_path / "run", **changes)
    with pytest.raises(DistillationError, match=rf"holds no results of this version \({message}"):
        draw_report(tmp_path / "run")


def test_results_are_read_as_they_were_kept(tmp_path: Path) -> None:
    result = RunResult(tmp_path, "test", "f1", tuple(reports.three()), {"eval_f1": 0.5}, ("a", "b"))
    assert RunResult.from_dict(tmp_path, json.loads(json.dumps(result.to_dict()))) == result


@pytest.mark.parametrize(
    ("name", "value"), [("parameters", 10**400), ("size_bytes", 10**400), ("parameters", -1), ("parameters", "many")]
)
def test_counts_that_no_model_has_are_refused(tmp_path: Path, name: str, value: Any) -> None:
    runs = RunResult(tmp_path, runs=tuple(reports.three())).to_dict()["runs"]
    runs[1][name] = value
    left_by(tmp_path / "run", runs=runs)
    with pytest.raises(DistillationError, match=rf"results.json holds no results .*runs\.1\.{name}: .*; remove it"):
        draw_report(tmp_path / "run")


@pytest.mark.draws
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400])
def test_numbers_that_cannot_be_drawn_are_left_out_of_the_pictures(tmp_path: Path, value: Any) -> None:
    """Labels are laid out when the picture is made."""
    runs = RunResult(tmp_path, runs=tuple(reports.three())).to_dict()["runs"]
    runs[1]["history"].append({"loss": value, "train_runtime": value, "step": 50})
    if isinstance(value, float):
        runs[1]["metrics"]["accuracy"] = value
        runs[2]["latency"]["high"] = value
    left_by(tmp_path / "run", runs=runs)
    assert (tmp_path / "run" / "report" / "accuracy_latency.png") in draw_report(tmp_path / "run")
