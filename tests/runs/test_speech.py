"""Sounds as a run sees them: what is read, what is refused, how answers are judged, and what a teacher hears."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer, EvalPrediction, PreTrainedTokenizerBase

from hf_distill.data.hypotheses import with_heard
from hf_distill.data.speech import hear
from hf_distill.errors import DataError, DistillationError, IncompatiblePair, NonFiniteLoss
from hf_distill.loading import load_model
from hf_distill.objectives.hypotheses import SCORES, TEXTS
from hf_distill.recipe import Recipe
from hf_distill.runs import run
from hf_distill.runs.models import limits
from hf_distill.runs.workload import Limits
from hf_distill.runs.workloads import load_workload
from hf_distill.runs.workloads.speech import Heard, Speech, collapsed
from hf_distill.teachers.generation import Hypothesis
from tests import sounds, tiny_runs

NO_LIMITS = Limits(128, [None], frozenset())


def recipe(folder: Path, **changes: Any) -> Recipe:
    files = {split: str(folder / f"{split}.jsonl") for split in ("train", "validation")}
    arguments = {"max_steps": 2, "per_device_train_batch_size": 4, "use_cpu": True, "disable_tqdm": True}
    written: dict[str, Any] = {
        "schema": 1,
        "data": {"files": files, "speech": {}},
        "teacher": {"model": str(folder / "teacher"), "generate": {"beams": 4, "hypotheses": 2}},
        "student": {"model": str(folder / "student")},
        "stages": [{
            "name": "a", "targets": "all", "objectives": [{"ctc_nbest_kd": {}}],
            "arguments": {**arguments, "report_to": "none", "eval_strategy": "no", "save_strategy": "no"},
        }],
    }  # fmt: skip
    return Recipe.from_dict(written | changes)


def loaded(folder: Path) -> Speech:
    found = load_workload(recipe(folder))
    assert isinstance(found, Speech)
    return found


def tokenizer_of(folder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(folder)


def said(text: str) -> list[int]:
    """The symbols of a text: 0 pads, 1 is unknown, 2 ends a word, and a to e follow."""
    return [2 if char == " " else 3 + "abcde".index(char) for char in text]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    sounds.save(sounds.write_sounds(tmp_path) / "student")
    return tmp_path


def test_sounds_are_read_at_the_rate_of_the_models(folder: Path) -> None:
    workload, tokenizer = loaded(folder), tokenizer_of(folder / "student")
    rows = workload.read(tokenizer, NO_LIMITS)["train"]
    assert workload.evaluated_splits == ("validation",)
    for i, row in enumerate(rows):
        text = sounds.TEXTS_SAID[i % 6]
        assert isinstance(row["input_values"], np.ndarray)
        assert row["labels"] == said(text)
        assert row["length"] == len(row["input_values"]) == 12 * len(text) + 20 + i
        assert np.mean(row["input_values"]) == pytest.approx(0.0, abs=1e-5)
        assert np.std(row["input_values"]) == pytest.approx(1.0, abs=1e-3)
    batch = workload.collator(tokenizer)([rows[i] for i in range(3)])
    assert batch["attention_mask"].sum(1).tolist() == [row["length"] for row in rows.select(range(3))]
    assert batch["labels"].tolist()[1] == [*said("dad"), *[-100] * 6]


def test_lists_of_samples_and_their_rate(folder: Path) -> None:
    row = {"sound": [0.5, -0.5] * 40, "said": "bed"}
    for split in ("train", "validation"):
        tiny_runs.write_jsonl(folder / f"{split}.jsonl", [row])
    columns = {"audio_column": "sound", "text_column": "said"}
    for rate, number in ((None, 80), (160, 40)):
        given = {**recipe(folder).to_dict()["data"], "speech": {**columns, "sampling_rate": rate}}
        workload = load_workload(recipe(folder, data=given))
        read = workload.read(tokenizer_of(folder / "student"), NO_LIMITS, ["train"])["train"]
        assert read[0]["length"] == number


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"audio": "train/none.wav", "text": "bed"}, r"line 2, column 'audio': there is no file"),
        ({"audio": "train/0.wav", "text": " "}, r"line 2, column 'text': is empty"),
        ({"audio": "train/0.wav", "text": 3}, r"line 2, column 'text': holds 3 \(int\)"),
        ({"audio": [0.5], "text": "bed"}, r"line 2, column 'audio': is another kind of sound"),
    ],
)
def test_rows_that_are_none_are_refused(folder: Path, row: dict[str, Any], words: str) -> None:
    tiny_runs.write_jsonl(folder / "train.jsonl", [{"audio": "train/0.wav", "text": "bed"}, row])
    with pytest.raises(DataError, match=words):
        load_workload(recipe(folder))


def test_what_models_and_tokenizer_cannot_read_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="not written by a run"):
        load_workload(recipe(folder), predict=True)
    workload, tokenizer = loaded(folder), tokenizer_of(folder / "student")
    tiny_runs.write_jsonl(folder / "train.jsonl", [{"audio": "train/0.wav", "text": "Bed f"}])
    with pytest.raises(DataError, match=r"line 1.*no symbol for \['B', 'f'\] in 'Bed f'"):
        loaded(folder).read(tokenizer, NO_LIMITS)
    model = sounds.hearing()
    workload.check_reading(model, tokenizer, "student")
    model.config.pad_token_id = 3
    with pytest.raises(IncompatiblePair, match=r"the student has the blank 3 .* and the tokenizer 0"):
        workload.check_reading(model, tokenizer, "student")
    model.config.pad_token_id, model.config.vocab_size = 0, 7
    with pytest.raises(IncompatiblePair, match="hears 7 symbols, and the tokenizer has 8"):
        workload.check_reading(model, tokenizer, "student")
    (folder / "student" / "processor_config.json").unlink()
    with pytest.raises(DistillationError, match="has no feature extractor"):
        workload.collator(tokenizer)


def test_sounds_of_which_a_model_makes_no_frame_are_refused(folder: Path) -> None:
    model = sounds.hearing().eval()
    shortest = limits(recipe(folder), model, sounds.hearing()).shortest
    with torch.no_grad():
        assert model(torch.zeros(1, shortest)).logits.shape[1] == 1
        with pytest.raises(RuntimeError, match="Kernel size"):
            model(torch.zeros(1, shortest - 1))
    rows = [{"audio": [0.5] * shortest, "text": "a"}, {"audio": [0.5] * (shortest - 1), "text": "a"}]
    tiny_runs.write_jsonl(folder / "train.jsonl", rows)
    with pytest.raises(
        DataError, match=rf"line 2, column 'audio': a sound of {shortest - 1} values .* of {shortest};"
    ):
        loaded(folder).read(tokenizer_of(folder / "student"), NO_LIMITS._replace(shortest=shortest))


def test_values_that_are_not_finite_are_refused(folder: Path) -> None:
    class OneFrame:
        """Of features whose variance over frames is made 1, as in SeamlessM4TFeatureExtractor."""

        sampling_rate, model_input_names = 80, ("input_features",)

        def __call__(self, sound: Any, sampling_rate: int) -> dict[str, Any]:
            return {"input_features": [np.full((1, 2), np.nan)]}

    rows = loaded(folder).splits["train"]
    with pytest.raises(DataError, match=r"line 1, column 'audio': the feature extractor makes .* not finite"):
        hear(rows, OneFrame(), tokenizer_of(folder / "student"))


def test_there_is_a_mask_where_the_feature_extractor_says_so(folder: Path) -> None:
    """Models with a norm over groups hear padding in any case, and take no mask (facebook/wav2vec2-base)."""
    place = folder / "student" / "processor_config.json"
    written = json.loads(place.read_text())
    written["feature_extractor"]["return_attention_mask"] = False
    place.write_text(json.dumps(written))
    workload, tokenizer = loaded(folder), tokenizer_of(folder / "student")
    rows = workload.read(tokenizer, NO_LIMITS, ["train"])["train"]
    batch = workload.collator(tokenizer)([rows[0], rows[1]])
    assert sorted(batch) == ["input_values", "labels"]
    assert batch["input_values"][1, len(rows[1]["input_values"]) :].abs().sum() == 0


def test_a_teacher_that_hears_otherwise_is_refused(folder: Path) -> None:
    sounds.save(folder / "teacher", seed=1)
    place = folder / "teacher" / "processor_config.json"
    written = json.loads(place.read_text())
    written["feature_extractor"]["do_normalize"] = False
    place.write_text(json.dumps(written))
    with pytest.raises(IncompatiblePair, match=r"do_normalize is True for '.*student' and False for the teacher '"):
        run(recipe(folder), folder / "out")
    workload, tokenizer = loaded(folder), tokenizer_of(folder / "student")
    other = load_model(str(folder / "teacher"), "AutoModelForCTC", role="student")  # of a stage that starts anew
    with pytest.raises(IncompatiblePair, match=r"for the student '.*teacher'"):
        workload.check_reading(other, tokenizer, "student")


def test_frames_stand_for_symbols_once() -> None:
    assert collapsed(np.asarray([0, 3, 3, 0, 3, 2, 2, 4, 0, -100, -100]), 0) == (3, 3, 2, 4)
    assert collapsed(np.asarray([0, 0]), 0) == ()


def test_error_rates_are_of_words_and_of_characters(folder: Path) -> None:
    workload, tokenizer = loaded(folder), tokenizer_of(folder / "student")
    rows = workload.read(tokenizer, NO_LIMITS)["validation"].select([1, 0])  # longest first, say
    frames = np.asarray([[*said("dad"), *[0] * 7, -100], [*said("a b"), 0, *said("bd c"), 0, 0, -100]])
    found = workload.answers("validation", rows, np.asarray([1, 0]), EvalPrediction(frames[:, :10], frames), ())
    assert found == Heard(
        [tuple(said("a bbd c")), tuple(said("dad"))], [tuple(said("a bad cab")), tuple(said("dad"))], 2
    )
    # `bbd c` for `bad cab`: both words are wrong, b for a, and a and b behind c are missing.
    assert workload.score("validation", found) == {"wer": 2 / 4, "cer": 3 / 12}
    assert workload.evidence("validation", found).rows.tolist() == [[2.0, 3.0], [0.0, 1.0]]
    assert workload.agreement("validation", found, Heard([(), found.found[1]], found.wanted, 2)) == 0.5
    broken = workload.reduce(torch.full((1, 3, 8), torch.nan), None).numpy()
    with pytest.raises(NonFiniteLoss, match="of 1 of 1 sounds are NaN"):
        workload.answers("validation", rows, np.asarray([0]), EvalPrediction(broken, broken), ())


@pytest.mark.parametrize("targets", ["best", "all"])
def test_targets_are_of_the_sounds_that_they_stand_beside(folder: Path, targets: str) -> None:
    rows = Dataset.from_dict({"input_values": [[0.5], [0.25]], "labels": [[3], [4]]})
    heard = [[Hypothesis("", (5, 6), -0.5, True), Hypothesis("", (), -2.0, True)], [Hypothesis("", (7,), -1.0, True)]]
    found = with_heard(rows, heard, targets)
    assert found["input_values"][:] == [[0.5], [0.25]]
    if targets == "best":
        assert found["labels"][:] == [[5, 6], [7]]
    else:
        assert found["labels"][:] == [[3], [4]]
        assert found[TEXTS][:] == [[[5, 6], []], [[7]]]
        assert found[SCORES][:] == [[-0.5, -2.0], [-1.0]]
    with pytest.raises(DataError, match="chosen by 'nearest'"):
        with_heard(rows, heard, "nearest")
