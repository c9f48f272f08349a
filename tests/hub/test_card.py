"""The card: what it says, and that nothing written into it becomes more than text."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from hf_distill.errors import HubError
from hf_distill.hub.card import Card
from hf_distill.hub.card_text import SNIPPETS
from hf_distill.hub.front_matter import check
from hf_distill.hub.markdown import block, code, escaped, shell
from hf_distill.hub.record import DataFacts, Hardware, ModelFacts, ObjectiveFacts, SourceFacts
from hf_distill.tasks import TASKS

from .conftest import HINTON, make_record

EVIL = (
    "x\n---\n# heading\n<script>alert('1')</script> | a | {{ 7*7 }} \"q\" ` `` ``` [l](javascript:1) \u202e\x00 &lt; é"
)


def front_matter(text: str) -> dict[str, Any]:
    match = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    assert match
    return yaml.safe_load(match[1])


def test_metadata(tmp_path: Path) -> None:
    card = Card.from_record(make_record(), repo_id="me/student", license="apache-2.0")
    data = front_matter(card.write(tmp_path).read_text(encoding="utf-8"))
    assert data == {
        "base_model": "someone/bert-base-sst2",
        "datasets": ["nyu-mll/glue"],
        "language": "en",
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
    assert SNIPPETS[task] in snippet
    assert front_matter(text)["pipeline_tag"] == TASKS[task].pipeline_tag


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
    )
    card = Card.from_record(record)
    text = card.write(tmp_path).read_text(encoding="utf-8")
    data, body = front_matter(text), card.body
    assert set(data) == {"base_model", "language", "library_name", "metrics", "model-index", "pipeline_tag", "tags"}
    assert "<script" not in text.partition("\n---\n")[2]
    assert "\u202e" not in text
    assert "\x00" not in text
    headings = [line for line in outside_blocks(body) if line.startswith("#")]
    assert len(headings) == 1 + 8  # title and sections
    assert not [line for line in outside_blocks(body) if line.startswith("---")]
    for row in (line for line in outside_blocks(body) if line.startswith("|")):
        assert len(re.findall(r"(?<!\\)\|", row)) in (3, 5, 6), row


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
