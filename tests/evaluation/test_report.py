from __future__ import annotations

import base64
import math
import os
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from hf_distill.errors import DistillationError
from hf_distill.evaluation import canvas, diagrams, figures, heat_maps, report
from hf_distill.evaluation.findings import Scores
from hf_distill.evaluation.report import (
    Reported,
    markdown_table,
    side_by_side,
    table,
    write_comparison,
    write_report,
)
from hf_distill.evaluation.summary import notes
from tests.reports import findings, history, summary, three, timed

pytestmark = pytest.mark.draws

HOSTILE = '<script>alert("1")</script> $x_{$ | *b* `c`\n\x1b[31m& {title}'


class Page(HTMLParser):
    """Tags, attributes and texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture
def drawn(monkeypatch):
    """The matplotlib figures in place of their PNGs."""
    made = []
    monkeypatch.setattr(canvas, "png", lambda figure: made.append(figure) or b"png")
    return made


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The files of a report on three runs."""
    import matplotlib

    before = dict(matplotlib.rcParams)
    paths = write_report(tmp_path_factory.mktemp("report") / "new", three(), "accuracy")
    assert dict(matplotlib.rcParams) == before
    return paths


def lines(axes) -> dict[str, list[tuple[float, float]]]:
    """The points of each line by the label that stands beside it, in the order of drawing."""
    points = [list(zip(line.get_xdata(), line.get_ydata(), strict=True)) for line in axes.lines]
    return dict(zip([text.get_text() for text in axes.texts], points, strict=True))


# ---- tables ----


def test_table_is_aligned_and_holds_every_value():
    head, rule, *rows = table(three(), "accuracy").split("\n\n")[0].splitlines()
    assert {len(line) for line in (head, rule, *rows)} == {len(head)}
    columns = ["run", "accuracy [95 %]", "agreement", "calibration error", "parameters", "size"]
    columns += ["ms/sentence", "sentences/s"]
    assert re.split(r"  +", head) == columns
    assert [re.split(r"  +", row) for row in rows] == [
        ["teacher", "0.812 [0.787, 0.835]", "-", "0.060", "22.7 M", "69.5 MB", "9.10", "310"],
        ["student", "0.812 [0.787, 0.835]", "0.900", "0.060", "17.4 M", "69.5 MB", "4.80", "310"],
        ["control", "0.797", "0.900", "0.060", "17.4 M", "69.5 MB", "4.80", "310"],
    ]
    for column in columns[1:]:
        end = head.index(column) + len(column)
        assert all(row[:end].rstrip() == row[:end] for row in rows)


@pytest.mark.parametrize(
    ("parameters", "size", "shown"),
    [(999, 999, ("999", "999 B")), (54_321, 999_600, ("54.3 k", "1 MB")), (7 * 10**9, 10**16, ("7 G", "1e+04 TB"))],
)
def test_counts_have_three_digits(parameters, size, shown):
    run = summary(parameters=parameters, size_bytes=size, latency=None, agreement=None, calibration_error=None)
    row = table([run], "f1").splitlines()[2]
    assert tuple(re.split(r"  +", row)[4:6]) == shown
    assert re.split(r"  +", row)[6:] == ["-", "-"]


@pytest.mark.parametrize(
    ("milliseconds", "shown"), [(0.4213, "0.42"), (12.345, "12.3"), (1234.5, "1,234"), (99.96, "100.0")]
)
def test_latency_has_three_digits(milliseconds, shown):
    assert table([summary(latency=timed(milliseconds))], "f1").splitlines()[2].split()[-2] == shown


def test_role_is_named_where_the_name_does_not_say_it():
    rows = table([summary("small"), summary("control", "control")], "f1").splitlines()[2:4]
    assert [re.split(r"  +", row)[0] for row in rows] == ["small (student)", "control"]


def test_notes_name_the_machine_once_or_for_each_run():
    assert notes(three())[-1] == "Measured on cpu, 2 threads."
    other = summary("b", latency=timed(device="cuda (H100)", threads=1))
    assert (
        notes([summary(), other])[-1] == "Measured on cpu, 2 threads (student); cuda (H100), 1 thread (b (student))."
    )
    assert not any("Measured" in line for line in notes([summary(latency=None)]))


def test_plain_table_has_no_control_characters():
    text = table([summary(HOSTILE)], "f1")
    assert all(character.isprintable() for character in text.replace("\n", ""))
    assert len(text.split("\n\n")[0].splitlines()) == 3


def test_markdown_table_keeps_its_cells_whatever_the_name():
    head, rule, row, *_ = markdown_table([summary(HOSTILE)], "accuracy").splitlines()
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in (head, rule, row)]
    assert [len(each) for each in cells] == [8, 8, 8]
    assert cells[1] == [" --- "] + [" ---: "] * 7
    assert cells[2][1] == r" 0.812 \[0.787, 0.835\] "
    assert not re.search(r"(?<!\\)[<>`*$&]", cells[2][0])
    assert re.sub(r"\\(.)", r"\1", cells[2][0]).startswith(' <script>alert("1")</script> $x_{$ | *b* `c` [31m& ')


@pytest.mark.parametrize("made", [table, markdown_table])
def test_missing_metric_and_missing_runs_are_named(made, tmp_path):
    with pytest.raises(DistillationError, match=r"'control' has no metric 'f1'; it has: accuracy"):
        made(three(), "f1")
    with pytest.raises(DistillationError, match="no runs"):
        made([], "accuracy")
    with pytest.raises(DistillationError, match="no metric 'mcc'"):
        write_report(tmp_path, three(), "mcc")
    assert not list(tmp_path.iterdir())


# ---- files ----


def test_report_is_one_page_that_holds_its_pictures(written):
    folder = written[2].parent
    names = ["report/accuracy_latency.png", "report/losses.png", "report.html"]
    assert [path.relative_to(folder).as_posix() for path in written] == names
    assert sorted(path for path in folder.rglob("*") if path.is_file()) == sorted(written)
    page = Page(written[2].read_text(encoding="utf-8"))
    assert page.open == []
    sources = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert [base64.b64decode(source.removeprefix("data:image/png;base64,")) for source in sources] == [
        path.read_bytes() for path in written[:2]
    ]
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")
    assert not any({"href", "action", "srcset"} & set(attributes) for _, attributes in page.tags)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object"})
    style = written[2].read_text(encoding="utf-8").split("<style>")[1].split("</style>")[0]
    assert "prefers-color-scheme: dark" in style
    assert "max-width" in style
    assert "url(" not in style
    assert "@import" not in style
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.tags


def test_page_shows_the_table(written):
    page = Page(written[2].read_text(encoding="utf-8"))
    for expected in ("calibration error", "0.812 [0.787, 0.835]", "22.7 M", "9.10", "Measured on cpu, 2 threads."):
        assert expected in page.texts
    assert [a["data-head"] for tag, a in page.tags if tag == "td"][:2] == ["accuracy [95 %]", "agreement"]


def test_hostile_names_stay_text(tmp_path):
    run = summary(HOSTILE, latency=timed(device=HOSTILE), metrics={HOSTILE: 0.5}, history=history((HOSTILE,)))
    text = write_report(tmp_path, [run], HOSTILE)[-1].read_text(encoding="utf-8")
    page = Page(text)
    assert "<script" not in text
    assert page.open == []
    assert any(shown.startswith('<script>alert("1")</script> $x_{$ | *b* `c` [31m& {title}') for shown in page.texts)


def test_pictures_are_pictures(written):
    from matplotlib.image import imread

    for path in written[:2]:
        pixels = imread(path)
        assert min(pixels.shape[:2]) > 400
        assert len({tuple(colour) for row in pixels[::4, ::4, :3] for colour in row.round(1)}) > 5


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        ({"latency": None}, ["losses.png", "report.html"]),
        ({"history": []}, ["accuracy_latency.png", "report.html"]),
        ({"latency": None, "history": []}, ["report.html"]),
    ],
)
def test_empty_pictures_are_left_out(tmp_path, changed, names, drawn):
    written = write_report(tmp_path, [summary(**changed)], "accuracy")
    assert [path.name for path in written] == names
    page = Page(written[-1].read_text(encoding="utf-8"))
    assert sum(tag == "img" for tag, _ in page.tags) == len(names) - 1


def test_failing_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    (tmp_path / "report.html").write_text("old")
    replace = os.replace

    def fail_on_page(source, target):
        if str(target).endswith(".html"):
            raise OSError("disk full")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_on_page)
    with pytest.raises(DistillationError, match=r"report\.html cannot be written: disk full"):
        write_report(tmp_path, [summary(history=[])], "accuracy")
    assert (tmp_path / "report.html").read_text() == "old"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["accuracy_latency.png", "report", "report.html"]


def test_matplotlib_missing_names_the_extra_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(DistillationError, match=re.escape('pip install "hf_distill[report]"')):
        write_report(tmp_path, three(), "accuracy")
    assert not list(tmp_path.iterdir())
    assert "student" in table(three(), "accuracy")


# ---- losses ----


def test_panels_hold_each_curve_under_its_name(drawn):
    figures.losses(three(), "accuracy")
    (figure,) = drawn
    evaluation, rates, unweighted, weighted, control, _ = figure.axes
    assert lines(evaluation) == {"student": [(20, 0.7), (40, 0.8)], "control": [(20, 0.7), (40, 0.8)]}
    assert [step for step, _ in lines(rates)["student"]] == [10, 20, 30, 40]
    assert [rate for _, rate in lines(rates)["control"]] == pytest.approx([7.5e-5, 5e-5, 2.5e-5, 0])
    assert list(lines(unweighted)) == ["soft_targets", "labels", "hidden_mse", "evaluation loss"]
    assert lines(unweighted)["hidden_mse"][-1] == (40, pytest.approx(10**1.6))
    assert list(lines(weighted)) == ["soft_targets", "labels", "hidden_mse", "total"]
    total = sum(0.5 * 10 ** (index - 0.4) for index in range(3))
    assert lines(weighted)["total"][-1] == (40, pytest.approx(total))
    assert list(lines(control)) == ["labels", "evaluation loss"]
    assert (unweighted.get_yscale(), control.get_yscale()) == ("log", "linear")


def test_lines_differ_in_more_than_colour(drawn):
    figures.losses([summary(history=history(("a", "b", "c", "d", "e")))], "accuracy")
    drawn_lines = drawn[0].axes[2].lines[:5]
    assert len({line.get_color() for line in drawn_lines}) == 5
    assert len({str(line._dash_pattern) for line in drawn_lines}) == 5


def test_further_stage_continues_the_steps(drawn):
    stages = history(("labels",), steps=20) + history(("labels",), steps=30)
    figures.losses([summary(history=stages)], "accuracy")
    assert [step for step, _ in lines(drawn[0].axes[2])["labels"]] == [10, 20, 30, 40, 50]
    assert [step for step, _ in lines(drawn[0].axes[0])["student"]] == [20, 40]


def test_stage_that_logs_first_at_a_later_step_is_told_by_its_epoch(drawn):
    stages = [{"loss": 1.0, "step": 5, "epoch": 2.0}, {"loss": 2.0, "step": 8, "epoch": 0.5}]
    figures.losses([summary(history=stages)], "accuracy")
    assert lines(drawn[0].axes[3])["total"] == [(5, 1.0), (13, 2.0)]


def test_values_that_are_no_numbers_are_left_out(drawn):
    entries = [{"loss": value, "step": step} for step, value in enumerate([3.0, math.nan, "2", None, math.inf, 1.0])]
    figures.losses([summary(history=entries)], "accuracy")
    assert lines(drawn[0].axes[3])["total"] == [(0, 3.0), (5, 1.0)]
    assert [text.get_text() for text in drawn[0].axes[2].texts] == ["not logged"]


def test_several_evaluation_sets_are_several_curves(drawn):
    times = {"eval_matched_runtime": 1.0, "eval_other_runtime": 1.0}
    entries = [{"eval_matched_accuracy": 0.8, "eval_other_accuracy": 0.7, "eval_other_loss": 1.5, **times, "step": 5}]
    figures.losses([summary(history=entries)], "eval_accuracy".removeprefix("eval_"))
    assert lines(drawn[0].axes[0]) == {"student matched": [(5, 0.8)], "student other": [(5, 0.7)]}
    assert lines(drawn[0].axes[2]) == {"evaluation other_loss": [(5, 1.5)]}


def test_metrics_that_end_alike_are_no_evaluation_sets(drawn):
    """As those of SQuAD 2.0, of which one run has four."""
    named = {"f1": 60.0, "HasAns_f1": 70.0, "NoAns_f1": 50.0, "best_f1": 61.0, "runtime": 1.0}
    figures.losses([summary(history=[{**{f"eval_{name}": value for name, value in named.items()}, "step": 5}])], "f1")
    assert lines(drawn[0].axes[0]) == {"student": [(5, 60.0)]}
    several = {f"eval_dev_{name}": value for name, value in named.items()}
    figures.losses([summary(history=[{**several, "step": 5}])], "f1")
    assert lines(drawn[1].axes[0]) == {"student dev": [(5, 60.0)]}


def test_labels_do_not_overlap_and_stay_in_the_picture(drawn):
    from matplotlib.text import Text

    names = tuple(f"a_term_with_a_rather_long_name_{index}" for index in range(8))
    entries = [{**{f"objective/{name}": 1.0 for name in names}, "loss": 1.0, "step": step} for step in (1, 2)]
    figures.losses([summary(history=entries)], "accuracy")
    (figure,) = drawn
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in figure.axes[2].texts]  # of an annotation without its line
    assert len(boxes) == 8
    assert not any(one.overlaps(other) for index, one in enumerate(boxes) for other in boxes[:index])
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)
    assert all(figure.axes[3].get_window_extent().x0 > box.x1 for box in boxes)


def test_labels_are_moved_apart():
    placed = canvas.apart([0.5, 0.5, 0.99, 1.0, 0.02], 0.1)
    assert placed[0] == 0.5
    assert placed[1] == pytest.approx(0.6)
    assert placed[2:] == pytest.approx([0.9, 1.0, 0.02])
    crowded = sorted(canvas.apart([0.3] * 21, 0.1))
    assert (crowded[0], crowded[-1]) == (pytest.approx(0.0), pytest.approx(1.0))
    assert [b - a for a, b in pairwise(crowded)] == pytest.approx([0.05] * 20)


# ---- accuracy against latency ----


def test_points_have_bars_and_labels(drawn):
    figures.accuracy_latency([*three(), summary("unmeasured", latency=None)], "accuracy")
    (axes,) = drawn[0].axes
    drawn_lines = [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]
    assert drawn_lines[:3] == [
        ([8.1, 11.1], [0.8125, 0.8125]),
        ([9.1, 9.1], [0.7874, 0.8351]),
        ([9.1], [0.8125]),
    ]
    assert len(drawn_lines) == 3 + 3 + 2  # the control has no interval
    assert [text.get_text() for text in axes.texts] == [
        "teacher: 0.812, 9.10 ms",
        "student: 0.812, 4.80 ms",
        "control: 0.797, 4.80 ms",
    ]
    assert len({line.get_marker() for line in (axes.lines[2], axes.lines[5], axes.lines[7])}) == 3
    assert "2 threads" in axes.get_xlabel()


@pytest.mark.parametrize("interval", [None, (0.9, 1.0)])
@pytest.mark.parametrize("value", [1.0, 0.95])
def test_axes_of_a_single_run(drawn, interval, value):
    figures.accuracy_latency([summary(metrics={"accuracy": value}, interval=interval)], "accuracy")
    (axes,) = drawn[0].axes
    assert axes.get_xlim()[0] == 0
    assert 6.8 < axes.get_xlim()[1] < 10
    bottom, top = axes.get_ylim()
    assert bottom < (interval[0] if interval else value) - 0.005
    assert value < top < 1.01


def test_metric_beyond_one_is_not_cut(drawn):
    figures.accuracy_latency([summary(metrics={"perplexity": 17.0}, interval=None)], "perplexity")
    assert drawn[0].axes[0].get_ylim()[1] > 17


# ---- findings ----


def test_findings_stand_on_the_page_and_as_files(tmp_path, drawn):
    found = findings(text=HOSTILE)
    written = write_report(tmp_path, three(), "accuracy", found, ["All on sst2.", HOSTILE])
    names = ["accuracy_latency", "losses", "confusion", "reliability", "layers", "attention"]
    assert [path.name for path in written] == [*(f"{name}.png" for name in names), "report.html"]
    text = written[-1].read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert "<script" not in text
    parted = found.parting
    assert (
        f"The student gives the teacher's answer to {parted.alike} of 400 rows ({parted.alike / 4:.1f} %)."
        in page.texts
    )
    assert {"both are right", f"{parted.both}", f"{parted.both / 4:.1f} %"} <= set(page.texts)
    first = found.examples[0]
    assert {first.text, f"{first.student} ({first.student_confidence:.2f})"} <= set(page.texts)
    assert "All on sst2." in page.texts
    assert sum(tag == "img" for tag, _ in page.tags) == 6


def test_confusion_has_a_panel_for_each_model_and_one_between(drawn):
    heat_maps.confusion(findings().confusion)
    panels = [axes for axes in drawn[0].axes if axes.images]
    assert [axes.get_title(loc="left") for axes in panels] == [
        "teacher",
        "student",
        "control",
        "student against teacher",
    ]
    counts = findings().confusion.counts["student"]
    assert [text.get_text() for text in panels[1].texts] == [f"{count:,}" for row in counts for count in row]
    shares = panels[1].images[0].get_array()
    assert shares.sum(axis=1).tolist() == pytest.approx([1.0, 1.0])


def test_many_classes_are_drawn_two_by_two(drawn):
    found = findings(tuple(f"a class with a long name {i}" for i in range(9))).confusion
    heat_maps.confusion(found.model_copy(update={"between": None}))
    assert [bool(axes.images) for axes in drawn[0].axes] == [True, True, True, False]
    assert all(len(label.get_text()) <= 16 for label in drawn[0].axes[0].get_yticklabels())


def test_names_in_letters_that_the_font_lacks_are_drawn_without_a_warning():
    assert heat_maps.confusion(findings(("好", "悪い")).confusion).startswith(b"\x89PNG")


def test_layers_are_numbered_from_the_embeddings(drawn):
    heat_maps.likeness(findings().likeness)
    axes = drawn[0].axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["emb.", "1", "2", "3", "4", "5", "6"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["emb.", "1", "2", "3"]
    assert [text.get_text() for text in axes.texts][:2] == ["1.00", "0.50"]


def test_layers_before_training_stand_above_those_after_it(drawn):
    heat_maps.likeness(findings().likeness, findings().likeness_before)
    panels = [axes for axes in drawn[0].axes if axes.texts]
    assert [axes.get_title(loc="left") for axes in panels] == ["before training", "after training"]
    assert [axes.texts[0].get_text() for axes in panels] == ["0.50", "1.00"]


def test_attention_of_a_pair_is_on_one_scale(drawn):
    found = findings().attention
    heat_maps.attention(found)
    maps = [axes for axes in drawn[0].axes if axes.images and axes.get_title(loc="left")]
    assert [axes.get_title(loc="left") for axes in maps][:2] == ["student, layer 1", "teacher, layer 2"]
    scales = [axes.images[0].get_clim() for axes in maps]
    largest = max(
        value for table in (found.pairs[0].student, found.pairs[0].teacher) for row in table for value in row
    )
    assert scales[0] == scales[1] == (0.0, largest)


def test_reliability_is_drawn_at_the_mean_confidence(drawn):
    found = findings().reliability
    diagrams.reliability(found)
    upper = drawn[0].axes[0]
    filled = [i for i, count in enumerate(found["teacher"].counts) if count]
    assert list(upper.lines[0].get_xdata()) == [found["teacher"].confidence[i] for i in filled]
    assert list(upper.lines[0].get_ydata()) == [found["teacher"].accuracy[i] for i in filled]
    assert upper.get_title(loc="left") == f"teacher: calibration error {found['teacher'].error:.3f}"


def test_scores_are_drawn_against_the_true_ones(drawn):
    diagrams.scores(Scores(truth=[0.0, 2.0], found={"teacher": [0.5, 1.0], "student": [3.0, 1.5]}))
    line, points = drawn[0].axes[1].lines
    assert list(line.get_xdata()) == [0.0, 3.0]
    assert (list(points.get_xdata()), list(points.get_ydata())) == ([0.0, 2.0], [3.0, 1.5])


# ---- many runs ----


def test_runs_with_the_same_teacher_show_it_once():
    teacher, student, control = three()
    other = replace(control, metrics={"accuracy": 0.7})
    group = [
        Reported("a", [teacher, student, control], "accuracy"),
        Reported("b", [teacher, student, other], "accuracy"),
    ]
    names = [run.title for run in side_by_side(group)]
    assert names == ["teacher", "a (student)", "a (control)", "b (student)", "b (control)"]


def test_a_comparison_is_one_page_with_all_runs(tmp_path, drawn):
    remarks = ["All on sst2.", "p = 0.5"]
    runs = [Reported("one", three(), "accuracy", remarks, findings()), Reported(HOSTILE, three(), "accuracy", remarks)]
    written = write_comparison(tmp_path, runs)
    names = ["accuracy_latency", "accuracy_size", "accuracy_training_time", "progress"]
    assert [path.name for path in written] == [*(f"{name}.png" for name in names), "report.html"]
    text = written[-1].read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert "<script" not in text
    assert sum(tag == "details" for tag, _ in page.tags) == 2
    assert {"one", "one (student)", "teacher", "All on sst2.", "p = 0.5"} <= set(page.texts)
    assert sum(tag == "img" for tag, _ in page.tags) == 4 + 5 + 1


def test_runs_on_other_rows_stand_apart(tmp_path, drawn):
    runs = [Reported("a", three(), "accuracy", ["All on sst2."]), Reported("b", [summary()], "f1", ["All on mrpc."])]
    written = [path.name for path in write_comparison(tmp_path, runs)]
    assert {"accuracy_size_1.png", "accuracy_size_2.png"} <= set(written)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert {"1. accuracy", "2. f1"} <= set(page.texts)


def test_of_very_many_runs_some_are_shown(tmp_path, drawn, monkeypatch):
    monkeypatch.setattr(report, "MOST_SHOWN", 2)
    write_comparison(tmp_path, [Reported(f"run {i}", [summary(history=[])], "f1") for i in range(3)])
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert sum(tag == "details" for tag, _ in page.tags) == 2
    assert "The first 2 of 3 runs can be opened below." in page.texts
    assert "run 2 (student)" in page.texts


def test_training_time_is_that_of_all_stages(drawn):
    stages = [*history(("labels",)), {"train_runtime": 57.0, "step": 50}]
    figures.accuracy_training_time([summary(history=stages), summary("x", history=[])], "accuracy")
    (axes,) = drawn[0].axes
    assert [text.get_text() for text in axes.texts] == ["student: 0.812, 1 min"]
    assert figures.accuracy_size([summary(size_bytes=0)], "accuracy") is None
