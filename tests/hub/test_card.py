"""The card: what it says, and that nothing written into it becomes more than text."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, constants
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model

from hf_distill.errors import HubError
from hf_distill.hub.card import Card
from hf_distill.hub.card_example import example
from hf_distill.hub.card_results import quality
from hf_distill.hub.card_text import with_exports
from hf_distill.hub.card_use import PURPOSES
from hf_distill.hub.front_matter import check
from hf_distill.hub.markdown import block, code, escaped, shell
from hf_distill.hub.record import (
    DataFacts,
    Emissions,
    Hardware,
    ModelFacts,
    ObjectiveFacts,
    Origin,
    Record,
    SourceFacts,
)
from hf_distill.hub.student import student_facts
from hf_distill.recipe import Recipe
from hf_distill.runs.record import _lasting, _origins
from hf_distill.tasks import TASKS

from .conftest import HINTON, make_export, make_record, tiny_student
from .server import Hub

EVIL = (
    "x\n---\n# heading\n<script>alert('1')</script> | a | {{ 7*7 }} \"q\" ` `` ``` [l](javascript:1) \u202e\x00 &lt; é"
)


def section(text: str, title: str) -> str:
    """What stands below a heading of the second order."""
    [found] = re.findall(rf"^## {title}\n\n(.*?)\n+(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    return found


def front_matter(text: str) -> dict[str, Any]:
    match = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    assert match
    return yaml.safe_load(match[1])


def test_metadata(tmp_path: Path) -> None:
    card = Card.from_record(make_record(), repo_id="me/student", license="apache-2.0")
    data = front_matter(card.write(tmp_path).read_text(encoding="utf-8"))
    assert data == {
        "base_model": "someone/bert-base-sst2",
        "base_model_relation": "finetune",
        "datasets": ["nyu-mll/glue"],
        "library_name": "transformers",
        "license": "apache-2.0",
        "metrics": ["accuracy"],
        "pipeline_tag": "text-classification",
        "tags": ["knowledge-distillation", "hf_distill"],
        "model-index": [
            {
                "name": "student",
                "results": [
                    {
                        "task": {"type": "text-classification"},
                        "dataset": {
                            "name": "GLUE SST-2",
                            "type": "nyu-mll/glue",
                            "config": "sst2",
                            "split": "validation",
                        },
                        "metrics": [{"type": "accuracy", "value": 0.91, "name": "accuracy"}],
                    }
                ],
            }
        ],
    }


def test_the_hub_finds_nothing_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = make_record(
        exports={"onnx/model.onnx": make_export()},
        emissions=Emissions(kilograms=0.01, kilowatt_hours=0.1, seconds=60.0, country="France"),
        recipe={"task": "sst2"},
    )
    cards = [str(Card.from_record(record, license="mit")) for record in (whole, make_record(teacher=None, metrics={}))]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with Hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        for card in cards:
            ModelCard(card).validate()
        with pytest.raises(ValueError, match="base_model_relation"):
            ModelCard(cards[0].replace("relation: finetune", "relation: distilled")).validate()
        assert len(hub.log) == 3


def test_the_client_reads_the_results_back() -> None:
    metrics = {"eval_pearson": 0.8, "eval_spearmanr": 0.7, "test_accuracy_mm": 0.6, "eval_steps_per_second": 3.0}
    data = ModelCard(str(Card.from_record(make_record(metrics=metrics)))).data
    found = {(r.metric_type, r.metric_name, r.dataset_split, r.metric_value) for r in data.eval_results}
    assert found == {
        ("pearsonr", "pearson", "validation", 0.8),
        ("spearmanr", "spearmanr", "validation", 0.7),
        ("accuracy", "accuracy_mm", "test", 0.6),
    }


def test_a_local_teacher_and_data_are_not_named_as_repositories() -> None:
    teacher = ModelFacts(class_name="BertModel", model_type="bert", num_parameters=10, num_bytes=40)
    data = front_matter(str(Card.from_record(make_record(teacher=teacher, data=DataFacts(name="my reviews")))))
    assert "base_model" not in data
    assert "datasets" not in data
    assert data["model-index"][0]["results"][0]["dataset"] == {
        "name": "my reviews",
        "type": "my-reviews",
        "split": "validation",
    }


def test_further_tags_stand_behind_ours_once() -> None:
    for tags, found in (("sst2", ["sst2"]), (["sst2", "hf_distill", "en"], ["sst2", "en"])):
        data = front_matter(str(Card.from_record(make_record(), tags=tags)))
        assert data["tags"] == ["knowledge-distillation", "hf_distill", *found]


def test_without_metrics_there_is_no_model_index() -> None:
    text = str(Card.from_record(make_record(metrics={"eval_loss": 0.1}, teacher_metrics={}, control_metrics={})))
    assert not {"model-index", "metrics", "model_name"} & set(front_matter(text))
    assert "recorded no metric of quality" in text


def test_the_text_tells_what_was_done() -> None:
    text = str(Card.from_record(make_record(), repo_id="me/student"))
    assert "| metric | split | student | teacher | student without teacher |" in text
    assert "| `accuracy` | validation | 0.9100 [0.8900, 0.9300] | 0.9300 | 0.8800 |" in text
    assert "25.0% of the teacher's parameters" in text
    assert "| `soft_targets` | `soft_targets` | 5 | temperature=2.0 |" in text
    assert "- `hidden_cosine`: 0 ← 0, 1 ← 4" in text
    assert "| `learning_rate` | 5e-05 |" in text
    assert "train 67,349, validation 872" in text
    assert "```bash\nhf-distill run quickstart\n```" in text
    assert "seed 42" in text
    assert "[someone/bert-base-sst2](https://huggingface.co/someone/bert-base-sst2)" in text
    assert f"```bibtex\n{HINTON}\n```" in text


def test_what_is_not_known_is_said() -> None:
    text = str(Card.from_record(make_record(control_metrics={}, teacher_metrics={}, intervals={})))
    assert "| metric | split | student |\n" in text
    assert "what the teacher added is not known" in text
    assert "The teacher was not measured" in text
    alone = str(Card.from_record(make_record(teacher=None, control_metrics={}, teacher_metrics={})))
    assert "eacher was not measured" not in alone
    assert "distilled from" not in alone


def test_agreement_and_calibration_have_a_table_of_their_own_and_are_no_metric_of_the_hub() -> None:
    metrics = {"eval_accuracy": 0.9, "eval_agreement": 0.97, "eval_calibration_error": 0.04, "eval_agreement_mm": 0.96}
    record = make_record(metrics=metrics, teacher_metrics={"eval_accuracy": 0.93, "eval_calibration_error": 0.02})
    text = str(Card.from_record(record))
    assert "agreement" not in section(text, "Results")
    told = section(text, "Agreement and calibration")
    assert "| metric | split | student | teacher |\n" in told
    assert "| `agreement` | validation | 0.9700 | n/a |" in told
    assert "| `agreement_mm` | validation | 0.9600 | n/a |" in told
    assert "| `calibration_error` | validation | 0.0400 | 0.0200 |" in told
    assert front_matter(text)["metrics"] == ["accuracy"]


@pytest.mark.parametrize(
    ("task", "words"),
    [("single_label", "prefers the teacher's class"), ("multi_label", "says the same classes as the teacher")],
)
def test_agreement_is_explained_as_it_was_measured(task: str, words: str) -> None:
    record = make_record(task=task, metrics={"eval_accuracy": 0.9, "eval_agreement": 0.97})
    text = str(Card.from_record(record))
    assert f"Agreement is the share of rows {'of' if task == 'multi_label' else 'on'} which a model {words}" in text
    assert "(ECE)" not in text


def test_speed_is_told_with_the_machine_it_was_measured_on() -> None:
    speeds = {"teacher": make_export().original_speed, "student": make_export().speed}
    told = section(str(Card.from_record(make_record(speeds=speeds))), "Size and speed")
    assert told.index("| student | 2.00 [1.80, 3.00] | 1,000.0 |") < told.index(
        "| teacher | 6.00 [5.40, 9.00] | 333.3 |"
    )
    assert "256 sentences of the data, on 1 of 2 cores (A processor)." in told
    assert "sentence" not in section(str(Card.from_record(make_record())), "Size and speed")


def test_times_and_counts_of_a_second_validation_are_no_quality() -> None:
    """MNLI's mismatched rows have theirs, too."""
    plain = {"accuracy": 0.8, "loss": 0.5, "runtime": 2.0, "samples": 20.0, "samples_per_second": 10.0}
    metrics = {f"eval_{name}{split}": value for name, value in plain.items() for split in ("", "_mm")}
    assert set(quality(metrics)) == {("accuracy", "validation"), ("accuracy_mm", "validation")}
    assert _lasting(metrics).keys() == {f"eval_{n}{s}" for n in ("accuracy", "loss", "samples") for s in ("", "_mm")}


def test_other_forms_are_told_and_what_was_written_by_hand_stays() -> None:
    plain, record = make_record(), make_record(exports={"onnx/model_int8.onnx": make_export()})
    card = str(Card.from_record(record, repo_id="me/student"))
    told = section(card, "Other forms")
    assert "| `onnx/model_int8.onnx` | 1.5 MB | 99.31% | 0.021 | 0.9100 → 0.9090 | 6.00 → 2.00 |" in told
    assert "- `onnx/model_int8.onnx`: 872 rows of GLUE SST-2, validation, timed on 1 thread of cpu." in told
    before = str(Card.from_record(plain, repo_id="me/student"))
    assert "Other forms" not in before
    assert with_exports(before, record) == card
    assert with_exports(card, record) == card
    assert with_exports(card, plain) == before
    unscored = {"onnx/model.onnx": make_export(accuracy=None, original_accuracy=None, speed=None)}
    scores = make_record(task="regression", exports=unscored)
    assert "| n/a | n/a |" in section(with_exports(card, scores), "Other forms")
    assert "of scores the correlation, 872 rows" in section(with_exports(card, scores), "Other forms")
    answers = make_record(task="question_answering", exports=unscored)
    assert "- `onnx/model.onnx`: 872 rows" in section(with_exports(card, answers), "Other forms")
    own = "---\nlicense: mit\n---\n\n# Mine\n\nMy words."
    changed = with_exports(own, record)
    assert changed == f"{own}\n\n## Other forms\n\n{told}\n"
    assert with_exports(changed, record) == changed


@pytest.mark.parametrize(
    ("licences", "given", "stated", "told"),
    [
        (["mit"], None, "mit", "Licence: `mit`, the teacher's."),
        (["mit", "mit"], None, "mit", "Licence: `mit`, the teacher's."),
        (["mit"], "apache-2.0", "apache-2.0", "Licence: `apache-2.0`. That of a teacher is `mit`."),
        (["mit", "cc-by-4.0"], None, None, "The teachers have different licences (`cc-by-4.0`, `mit`)"),
        ([None], None, None, "No licence is stated"),
        (["mit", None], None, None, "No licence is stated"),
    ],
)
def test_the_licence_is_the_teachers(
    licences: list[str | None], given: str | None, stated: str | None, told: str
) -> None:
    teachers = [
        make_record().teacher.model_copy(update={"license": licence, "id": f"someone/teacher{i}"})
        for i, licence in enumerate(licences)
    ]
    record = make_record(teacher=teachers[0], other_teachers=teachers[1:])
    text = str(Card.from_record(record, license=given))
    assert front_matter(text).get("license") == stated
    assert told in section(text, "Limits and licence")
    assert "[someone/teacher0](https://huggingface.co/someone/teacher0)" in section(text, "Limits and licence")
    named = front_matter(text)["base_model"]
    assert named == ("someone/teacher0" if len(teachers) == 1 else ["someone/teacher0", "someone/teacher1"])


BOTH = "Its teacher and the model that it starts from have different licences (`apache-2.0`, `cc-by-nc-4.0`)"


@pytest.mark.parametrize(
    ("teacher", "start", "given", "stated", "told"),
    [
        ("apache-2.0", "cc-by-nc-4.0", None, None, BOTH),
        ("mit", "mit", None, "mit", "Licence: `mit`, that of the teacher and of the model that it starts from."),
        ("mit", None, None, None, "the terms of its teacher, of the model that it starts from and of its data"),
        (None, "mit", None, None, "No licence is stated"),
        ("mit", "gpl-3.0", "mit", "mit", "Licence: `mit`. That of a model that it comes from is `gpl-3.0`."),
    ],
)
@pytest.mark.parametrize("key", ["student.model", "stages.12.student.model"])
def test_the_licence_is_also_that_of_the_model_that_the_student_starts_from(
    teacher: str | None, start: str | None, given: str | None, stated: str | None, told: str, key: str
) -> None:
    origins = {
        "teacher.model": Origin(id="someone/bert-base-sst2"),
        key: Origin(id="nc/student", revision="b" * 40, license=start),
    }
    record = make_record(teacher=make_record().teacher.model_copy(update={"license": teacher}), origins=origins)
    text = str(Card.from_record(record, license=given))
    assert front_matter(text).get("license") == stated
    assert told in section(text, "Limits and licence")
    assert front_matter(text)["base_model"] == ["someone/bert-base-sst2", "nc/student"]
    assert f"begun from [nc/student](https://huggingface.co/nc/student) (revision `{'b' * 40}`), distilled" in text
    assert "card of [someone/bert-base-sst2](https://huggingface.co/someone/bert-base-sst2) and [nc/student]" in text


def test_without_a_teacher_the_licence_is_that_of_the_model_that_the_student_starts_from() -> None:
    origins = {"student.model": Origin(files={"model.safetensors": "c" * 64}, license="mit")}
    text = str(Card.from_record(make_record(teacher=None, origins=origins)))
    assert front_matter(text)["license"] == "mit"
    assert "Licence: `mit`, that of the model that it starts from." in text
    assert "begun from a model that is not on the Hub on GLUE" in text
    assert "base_model" not in front_matter(text)


def test_a_student_that_starts_from_its_teacher_is_not_told_to_come_from_two_models() -> None:
    record = make_record(origins={"student.model": Origin(id="someone/bert-base-sst2", license="mit")})
    text = str(Card.from_record(record))
    assert front_matter(text)["base_model"] == "someone/bert-base-sst2"
    assert "begun from" not in text


def test_a_licence_that_the_hub_does_not_know_keeps_its_name_and_link() -> None:
    own = {"license": "other", "license_name": "tongyi", "license_link": "https://hub/g/t/blob/main/LICENSE"}
    teacher = make_record().teacher.model_copy(update=own)
    text = str(Card.from_record(make_record(teacher=teacher)))
    assert {key: front_matter(text)[key] for key in own} == own
    assert "Licence: [`tongyi`](https://hub/g/t/blob/main/LICENSE), the teacher's." in text
    assert text == str(Card.from_record(make_record(teacher=teacher), license="other"))
    for further, stated in (({"license_name": "tongyi"}, "other"), ({"license_name": "gemma"}, None), ({}, None)):
        start = Origin(id="nc/student", license="other", **further)
        record = make_record(teacher=teacher, origins={"student.model": start})
        assert front_matter(str(Card.from_record(record))).get("license") == stated


def test_a_record_tells_the_licences_of_the_models_that_a_student_starts_from(tmp_path: Path) -> None:
    for name, licence in (("first", "mit"), ("second", "cc-by-nc-4.0")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "README.md").write_text(f"---\nlicense: {licence}\n---\n")
    soft = [{"soft_targets": {}}]
    recipe = {
        "schema": 1,
        "task": "sst2",
        "teacher": {"model": str(tmp_path / "second")},
        "student": {"model": str(tmp_path / "first")},
        "stages": [
            {"name": "one", "objectives": soft},
            {"name": "two", "objectives": soft, "student": {"model": str(tmp_path / "second")}},
        ],
    }
    found = _origins(Recipe.from_dict(recipe))
    assert {key: origin.license for key, origin in found.items()} == {
        "teacher.model": None,
        "student.model": "mit",
        "stages.1.student.model": "cc-by-nc-4.0",
    }


def test_the_language_is_not_guessed() -> None:
    assert "language" not in front_matter(str(Card.from_record(make_record())))
    for language in ("de", ["de", "en"]):
        assert front_matter(str(Card.from_record(make_record(), language=language)))["language"] == language


def test_the_intended_use_is_that_of_the_task() -> None:
    told = section(str(Card.from_record(make_record())), "Intended use")
    assert told.startswith("It is made to sort texts into the classes that it was trained on, with fewer parameters")
    same = make_record(student=make_record().teacher, task="fill_in_verses")
    told = section(str(Card.from_record(same)), "Intended use")
    assert told.startswith("It is made for the task that it was trained on. The figures above hold for texts like")
    assert set(PURPOSES) == set(TASKS)


@pytest.mark.parametrize("base", ["someone/small", None])
def test_a_student_that_is_an_adapter_is_one_of_its_base(base: str | None) -> None:
    files = {"adapter_model.safetensors": "c" * 64}
    student = make_record().student.model_copy(update={"files": files, "adapter_of": base})
    text = str(Card.from_record(make_record(student=student)))
    found = front_matter(text)
    assert found.get("base_model") == base
    assert found.get("base_model_relation") == ("adapter" if base else None)
    assert found["library_name"] == "peft"
    told = "[someone/small](https://huggingface.co/someone/small)" if base else "another model"
    assert f"an adapter of {told}, distilled from [someone/bert-base-sst2]" in text


@pytest.mark.parametrize(
    ("name", "found"), [("someone/small", "someone/small"), ("local/small", None), ("/models/small", None), ("", None)]
)
def test_the_base_of_an_adapter_is_named_where_it_is_on_the_hub(
    name: str, found: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "local" / "small").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    model = tiny_student()
    model.name_or_path = name
    assert student_facts(get_peft_model(model, LoraConfig()), tmp_path).adapter_of == found
    assert student_facts(tiny_student(), tmp_path).adapter_of is None


@pytest.mark.parametrize(
    ("command", "again"),
    [
        (
            ["python", "scripts/distill_glue.py", "--task_name", "sst2"],
            "\npython scripts/distill_glue.py --reproduce me/student --output_dir again\n",
        ),
        (
            ["accelerate", "launch", "--mixed_precision", "bf16", "scripts/distill_ner.py", "--x", "distill_qa.py"],
            "\naccelerate launch --mixed_precision bf16 scripts/distill_ner.py --reproduce me/student",
        ),
        (["hf-distill", "ner", "--x", "distill_qa.py"], "\nhf-distill ner --reproduce me/student"),
        (["python", "train.py"], "from_record('me/student', 'again')"),
        ([], "from_record('me/student', 'again')"),
    ],
)
def test_it_says_how_to_make_the_student_again(command: list[str], again: str) -> None:
    recipe = {
        "task": "sst2",
        "seed": 42,
        "teacher": {"model": "<b>`x`\n---"},
        "stages": [{"name": "é", "rate": 5e-05}],
    }
    record = make_record(command=command, recipe=recipe, origins={"teacher.model": Origin(files={"w.bin": "d" * 64})})
    told = section(str(Card.from_record(record, repo_id="me/student")), "How to make it again")
    assert again in told
    [shown] = re.findall(r"```yaml\n(.*?)\n```", told, re.DOTALL)
    assert yaml.safe_load(shown) == recipe
    assert list(yaml.safe_load(shown)) == list(recipe)
    assert "<" not in shown
    assert f"| `teacher.model` | `w.bin` | `{'d' * 64}` |" in told
    unknown = section(str(Card.from_record(make_record(command=command))), "How to make it again")
    assert "again" not in unknown.replace("How to make it again", "")


def test_an_estimate_of_emissions_is_in_grams() -> None:
    found = Emissions(kilograms=0.0123, kilowatt_hours=0.05, seconds=90.0, country="France")
    text = str(Card.from_record(make_record(emissions=found)))
    assert front_matter(text)["co2_eq_emissions"] == {
        "emissions": 12.3,
        "source": "codecarbon",
        "training_type": "knowledge distillation",
        "hardware_used": "A processor",
        "geographical_location": "France",
    }
    assert "0.05 kWh in France, 12.3 g of CO2 equivalent, in 1.5 minutes" in section(text, "Emissions")


words = st.text(min_size=1, max_size=30) | st.sampled_from(
    [EVIL, "---", "## How to use it", "```", "<br>", "a: [", "'"]
)


@settings(max_examples=15, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
@given(text=words, other=words)
def test_whatever_names_hold_the_card_keeps_its_shape(text: str, other: str) -> None:
    """Foreign text adds no key, no heading, no HTML, no row and no column."""

    def record(name: str, second: str) -> Record:
        return make_record(
            command=["hf-distill", name],
            objectives=[ObjectiveFacts(name=name, objective=second, weight=name, settings={second: name})],
            data=DataFacts(name=name, config=second, sizes={name: 1}),
            recipe={"task": name, "data": [second]},
            exports={name: make_export(texts=second)},
            hardware=Hardware(machine=name, processor=second, cores=1),
            emissions=Emissions(kilograms=0.0, kilowatt_hours=0.0, seconds=0.0, country=second or "x"),
            versions={"hf_distill": name},
            metrics={"eval_accuracy": 0.5},
        )

    card, plain = Card.from_record(record(text, other)), Card.from_record(record("name", "other"))
    card.validate()
    data, expected = front_matter(str(card)), front_matter(str(plain))
    assert set(data) | {"x"} >= set(expected) - {"x"}
    assert data["model-index"][0]["results"][0]["metrics"] == expected["model-index"][0]["results"][0]["metrics"]
    shape = [re.sub(r"\\[|#]|[^|#]", "", row) for row in outside_blocks(card.body)]
    assert shape == [re.sub(r"\\[|#]|[^|#]", "", row) for row in outside_blocks(plain.body)]
    for row in outside_blocks(card.body):
        assert not re.search(r"<[A-Za-z/!]", row)


def test_each_citation_is_given_once() -> None:
    objectives = [
        ObjectiveFacts(name=f"o{i}", objective="o", weight=1.0, citation=citation)
        for i, citation in enumerate([HINTON, "@misc{b,\n title={B}}", f"{HINTON}\n", HINTON.replace("\n", " "), ""])
    ]
    text = str(Card.from_record(make_record(objectives=objectives)))
    assert text.count("hinton2015") == 1
    assert text.index("hinton2015") < text.index("@misc{b")


def test_the_example_imports_the_package_where_transformers_does_not_know_the_class() -> None:
    facts = {"num_parameters": 1, "num_bytes": 4}
    ours = ModelFacts(class_name="IBBertForSequenceClassification", model_type="ib_bert", **facts)
    for student, first in ((ours, "import hf_distill  #"), (make_record().student, "from transformers")):
        text = str(Card.from_record(make_record(student=student), repo_id="me/student"))
        [snippet] = re.findall(r"```python\n(.*?)\n```", text, re.DOTALL)
        assert snippet.startswith(first)


@pytest.mark.parametrize("task", sorted(TASKS))
def test_the_example_is_python_and_names_the_repository(task: str) -> None:
    text = str(Card.from_record(make_record(task=task), repo_id="me/student"))
    [snippet] = re.findall(r"```python\n(.*?)\n```", text, re.DOTALL)
    compile(snippet, task, "exec")
    assert "'me/student'" in snippet
    assert front_matter(text)["pipeline_tag"] == TASKS[task].pipeline_tag


PAIR = "{'text': 'An example text.', 'text_pair': 'Another text.'}"


@pytest.mark.parametrize(("task", "recipe", "call"), [
    ("single_label", None, "model('An example text.')"),
    ("single_label", {"task": "sst2"}, "model('An example text.')"),
    ("single_label", {"task": "rte"}, f"model({PAIR})"),
    ("single_label", {"data": {"text_columns": ["question", "context"]}}, f"model({PAIR})"),
    ("single_label", {"data": {"text_columns": ["review"]}}, "model('An example text.')"),
    ("multi_label", {"data": {"text_columns": ["a", "b"]}}, f"model({PAIR}, top_k=None)"),
    ("regression", {"task": "stsb"}, "tokenizer('An example text.', 'Another text.', return_tensors='pt')"),
    ("regression", {"data": {"text_columns": ["essay"]}}, "tokenizer('An example text.', return_tensors='pt')"),
    ("causal_lm", {"data": {"text": {}}}, "model('An example', max_new_tokens=20)"),
    ("causal_lm", {"data": {"chat": {}}}, "model([{'role': 'user', 'content': 'An example'}], max_new_tokens=20)"),
    ("masked_lm", None, "model(f'An example {model.tokenizer.mask_token}.')"),
    ("seq2seq_lm", {"data": {"translation": {"prefix": "\"to\" 'de': "}}}, r"""tokenizer('"to" \'de\': An e"""),
    ("seq2seq_lm", {"data": {"translation": {"prefix": None}}}, "tokenizer('An example text.', return_tensors='pt')"),
    ("single_label", {"task": ["rte"], "data": "x"}, "model('An example text.')"),
])  # fmt: skip
def test_the_example_is_of_the_kind_of_the_rows(task: str, recipe: dict[str, Any] | None, call: str) -> None:
    """A student of pairs was shown one text, and one of conversations the beginning of a text."""
    program = example(make_record(task=task, recipe=recipe), None)
    compile(program, task, "exec")
    assert call in program


def test_an_unknown_task_has_no_pipeline() -> None:
    text = str(Card.from_record(make_record(task="fill_in_verses")))
    assert "pipeline_tag" not in front_matter(text)
    assert "AutoModel.from_pretrained('.')" in text


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    evil = {"name": EVIL, "objective": EVIL, "settings": {EVIL: EVIL}, "citation": EVIL}
    record = make_record(
        command=["run", EVIL, "it's", "a b"],
        student=ModelFacts(class_name=EVIL, model_type=EVIL, num_parameters=1, num_bytes=1),
        objectives=[ObjectiveFacts(weight=EVIL, **evil)],
        layer_maps={EVIL: [(1, 1)]},
        training_arguments={"learning_rate": EVIL},
        data=DataFacts(name=EVIL, config=EVIL, sources={EVIL: SourceFacts(name=EVIL)}, sizes={EVIL: 1}),
        seeds={EVIL: 1},
        versions={EVIL: EVIL, "hf_distill": EVIL},
        hardware=Hardware(machine=EVIL, processor=EVIL, cores=1, accelerators=[EVIL]),
        metrics={f"eval_{EVIL}": 0.5},
        recipe={EVIL: [EVIL, {"a": EVIL}]},
        origins={EVIL: Origin(files={EVIL: "b" * 64}), "student.model": Origin(revision=EVIL, license="mit")},
        exports={EVIL: make_export(texts=EVIL)},
        emissions=Emissions(kilograms=1e-3, kilowatt_hours=0.1, seconds=60.0, country=EVIL),
    )
    card = Card.from_record(record)
    text = card.write(tmp_path).read_text(encoding="utf-8")
    data, body = front_matter(text), card.body
    keys = {"base_model", "base_model_relation", "co2_eq_emissions", "library_name", "metrics"}
    assert set(data) == keys | {"model-index", "pipeline_tag", "tags"}
    assert "<script" not in text.partition("\n---\n")[2]
    assert "\u202e" not in text
    assert "\x00" not in text
    headings = [line for line in outside_blocks(body) if line.startswith("#")]
    assert len(headings) == 1 + 11  # title and sections
    assert not [line for line in outside_blocks(body) if line.startswith("---")]
    for row in (line for line in outside_blocks(body) if line.startswith("|")):
        assert len(re.findall(r"(?<!\\)\|", row)) in (3, 4, 5, 6, 7), row


def outside_blocks(body: str) -> list[str]:
    """The lines of `body` that are in no fenced block."""
    lines, fence = [], ""
    for text in body.splitlines():
        opening = re.match(r"`{3,}", text)
        if fence:
            fence = "" if text == fence else fence
        elif opening:
            fence = opening[0]
        else:
            lines.append(text)
    assert not fence
    return lines


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b", r"a\|b"),
        ("<b>&", "&lt;b&gt;&amp;"),
        ("a\r\n\u2028b\tc", "a b c"),
        ("[x](y) *z* _u_ `v` #w", r"\[x\](y) \*z\* \_u\_ \`v\` \#w"),
        ("é 漢", "é 漢"),
        ("a" * 400, "a" * 299 + "…"),
    ],
)
def test_escaping(text: str, shown: str) -> None:
    assert escaped(text) == shown


def test_code_spans_hold_plain_names_only() -> None:
    assert code("hidden_cosine") == "`hidden_cosine`"
    assert code("a`b") == r"a\`b"


def test_commands_can_be_pasted_and_cannot_leave_their_block() -> None:
    argv = [
        "printf",
        "%s\\0",
        "plain",
        "a b",
        "it's",
        "<script>",
        "```",
        "two\nlines",
        "back\\slash <",
        "é",
        "\x1b[0m",
    ]
    text = shell(argv)
    assert "<" not in text
    assert text.count("```") == 2
    [line] = text.splitlines()[1:-1]
    ran = subprocess.run(["bash", "-c", line], capture_output=True, check=True)
    assert ran.stdout.decode().split("\0")[:-1] == argv[2:]


def test_a_fence_is_longer_than_any_inside() -> None:
    assert block("a\n````\nb", "text") == "`````text\na\n````\nb\n`````"


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ("language: 5", "language: 5"),
        ("language: [en, Deutsch]", "'Deutsch'"),
        ("license: 5", "license: 5"),
        ("base_model: ../teacher", "base_model"),
        ("datasets: [a/b, '<x>']", "datasets: '<x>'"),
        ("tags: [a, 3]", "tags: 3"),
        ("pipeline_tag: two words", "pipeline_tag"),
        ("base_model_relation: distilled", "base_model_relation: 'distilled' is not one of adapter, merge"),
        ("co2_eq_emissions: {emissions: .inf}", "co2_eq_emissions: inf is not a number of grams"),
        ("model-index: 3", "model-index: does not have the form"),
        ("model-index: [{name: a, results: [{task: {type: t}}]}]", "model-index: does not have the form"),
        (
            "model-index: [{name: a, results: [{task: {type: t}, dataset: {type: d, name: d}, "
            "metrics: [{type: accuracy, value: .nan}]}]}]",
            "not a finite number",
        ),
        ("- a", "is a list"),
        ("a: [", "is not YAML"),
        ("a: " + "[" * 5000, "more than 500 brackets"),
        ("a: !!python/object/apply:os.system [x]", "is not YAML"),
        ("date: 2023-02-30", "cannot be read: a value is not what it is written as (ValueError: day is out of range"),
        ("t: 2024-01-01 25:00:00", "cannot be read: a value is not what it is written as (ValueError: hour must be"),
        ("a: !!int abc", "cannot be read"),
        ("a: !!float x", "cannot be read"),
        ("a: !!timestamp foo", "cannot be read"),
        pytest.param("a: " + "9" * 5000, "cannot be read", id="thousands of digits"),
        pytest.param("license: 0x" + "f" * 5000, "license: int of too many digits is not", id="hexadecimal digits"),
        pytest.param(f"co2_eq_emissions: {'9' * 400}", "99 is not a number of grams", id="hundreds of grams"),
        pytest.param(
            "model-index: [{name: a, results: [{task: {type: t}, dataset: {type: d, name: d}, "
            f"metrics: [{{type: accuracy, value: {'9' * 400}}}]}}]}}]",
            "99, not a finite number",
            id="a result of hundreds of digits",
        ),
        pytest.param(
            f"model-index: [{{name: a, results: [{{task: {{type: 0x{'f' * 5000}}}, dataset: {{type: d}}, "
            "metrics: [{type: accuracy, value: 1}]}]}]",
            "does not have the form",
            id="a task of thousands of digits",
        ),
    ],
)
def test_the_offline_check_names_what_is_wrong(metadata: str, words: str) -> None:
    with pytest.raises(HubError) as raised:
        check(f"---\n{metadata}\n---\n\n# x\n")
    assert words in str(raised.value)


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(HubError) as raised:
        check("---\nlicense: 5\ntags: [3]\n---\n")
    assert "license: 5" in str(raised.value)
    assert "tags: 3" in str(raised.value)


def test_a_card_needs_metadata() -> None:
    with pytest.raises(HubError, match="has no metadata"):
        check("# only text\n")


def test_a_card_with_a_bad_language_is_not_written(tmp_path: Path) -> None:
    card = Card.from_record(make_record(), language="English, please")
    with pytest.raises(HubError, match="language"):
        card.write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_files_that_went_in_are_told_by_what_they_were() -> None:
    sources = {"train": SourceFacts(name="train.jsonl", sha256="a" * 64)}
    origins = {"teacher.model": Origin(files={"model.safetensors": "b" * 64})}
    facts = {"recipe": {"dataset_dir": "sst2"}, "origins": origins}
    card = str(Card.from_record(make_record(data=DataFacts(name="sst2", sources=sources), **facts)))
    assert f"| `dataset_dir` | `train.jsonl` | `{'a' * 64}` |" in card
    assert f"| `teacher.model` | `model.safetensors` | `{'b' * 64}` |" in card
    assert "looked for in `--data_dir`" in card
    from_hub = str(Card.from_record(make_record(recipe={"task": "sst2"})))
    assert "looked for in" not in from_hub, "the sums of the Hub's rows are no files'"


WRITTEN = {"student_share": 0.5, "teacher_share": 0.25, "temperature": 0.9, "top_k": 20, "max_new_tokens": 64}


@pytest.mark.parametrize("place", ["recipe", "trainer"])
def test_a_card_says_who_wrote_the_texts(place: str) -> None:
    stages = {"recipe": {"stages": [{"name": "distil", "on_policy": WRITTEN}]}}
    record = make_record(**(stages if place == "recipe" else {"training_arguments": {"on_policy": WRITTEN}}))
    text = str(Card.from_record(record))
    assert "in the share 0.5 of the steps the texts were written by the student itself" in text
    assert "in the share 0.25 by the teacher; in the others they are those of the data" in text
    assert "drawn at temperature 0.9, of the 20 likeliest tokens, with 64 new tokens at most" in text
    assert "On-policy" not in str(Card.from_record(make_record()))


def test_stages_and_the_likeliest_token_are_told_apart_and_oddities_shown() -> None:
    odd = {"student_share": "<b>", "temperature": 0}
    stages = [{"name": "first"}, {"name": "second", "on_policy": {}}, {"name": "third", "on_policy": odd}, 7]
    text = str(Card.from_record(make_record(recipe={"stages": stages})))
    assert "in stage `first`" not in text
    assert "in stage `second` (GKD): in the share 0.5 of the steps" in text
    assert "in the share &lt;b&gt; of the steps" in text
    assert "the likeliest token each time, with 128 new tokens" in text


@pytest.mark.parametrize("name", WRITTEN)
def test_a_number_that_no_float_holds_is_shown(name: str) -> None:
    record = make_record(recipe={"stages": [{"name": "distil", "on_policy": {**WRITTEN, name: 10**400}}]})
    assert f"1{'0' * 200}" in str(Card.from_record(record))


def test_a_card_says_what_the_teacher_wrote_before_the_training() -> None:
    recipe: dict[str, Any] = {
        "data": {"chat": {}},
        "teacher": {"generate": {"beams": 3, "max_new_tokens": 64}},
        "stages": [{"name": "first", "targets": "reference"}, {"name": "second", "targets": "best"}, 7],
    }
    counts = {"written": 1200, "kept": 1100, "empty": 0, "too long": 100, "without room for an answer": 3}
    text = str(Card.from_record(make_record(recipe=recipe, texts=counts)))
    assert "Texts of the teacher in stage `second`: learned is the best one of each row" in text
    assert "`first`: learned" not in text
    assert "a search with 3 beams, with 64 new tokens at most, as answers to what stands before the" in text
    assert "Of 1,200 texts 1,100 were kept (100 too long, 3 without room for an answer)." in text
    drawn = {
        **recipe,
        "teacher": {"generate": {"drawing": {"temperature": 0.8, "top_k": 0, "top_p": 0.9}, "max_new_tokens": 64}},
    }
    text = str(Card.from_record(make_record(recipe=drawn, texts=counts)))
    assert "before the training by drawing their tokens at temperature 0.8, top\\_p 0.9, with 64 new tokens" in text
    odd = {**recipe, "teacher": {"generate": {"beams": "<b>"}}, "stages": [{"targets": "<i>"}], "data": {"speech": {}}}
    text = str(Card.from_record(make_record(recipe=odd)))
    assert "learned is &lt;i&gt;" in text
    assert "The teacher heard them by a search with &lt;b&gt; beams." in text
    for silent in ({**recipe, "stages": []}, {**recipe, "teacher": {}}):
        assert "Texts of the teacher" not in str(Card.from_record(make_record(recipe=silent)))
