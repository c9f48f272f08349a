"""Does a small student hear better by its teacher's hypotheses than by the words alone? Error rates on spoken digits.

    python scripts/benchmarks/spoken_digits.py --data FSDD --seeds 1 2 3 --output FOLDER

FSDD holds `train` and `validation` of the Free Spoken Digit Dataset, each as `.jsonl` with a `text` in each line, and
`.npz` with `samples` (int16), `offsets` and `sampling_rate`; they are written as WAV files first. Teacher and student
are Wav2Vec2 models from random weights, which hear 8,000 samples a second; the teacher learns the words, once. The
student learns the words (`control`), the teacher's 8 best hypotheses of each sound (`nbest`), or both. A seed draws
the student's weights and the order of the rows; nothing was tuned on the validation rows. What is in the output folder
is not repeated. Results are in `results.json` and `results.md`.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.io import wavfile
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
)

from hf_distill import run
from hf_distill.data.speech import characters

RATE = 8000
SPLITS = ("train", "validation")
SIZES: dict[str, dict[str, int]] = {
    "teacher": {"hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 384},
    "student": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128},
}
HYPOTHESES: dict[str, Any] = {"ctc_nbest_kd": {}, "weight": 1.0}
METHODS: dict[str, list[dict[str, Any]]] = {
    "control": [{"labels": {}}],
    "nbest": [HYPOTHESES],
    "both": [{**HYPOTHESES, "weight": 0.5}, {"labels": {}, "weight": 0.5}],
}


def convert(source: Path, target: Path) -> None:
    """Writes each recording as a WAV file, and rows that name them."""
    for split in SPLITS:
        if (target / f"{split}.jsonl").exists():
            continue
        (target / split).mkdir(parents=True, exist_ok=True)
        stored = np.load(source / f"{split}.npz")
        offsets, rate = stored["offsets"], int(stored["sampling_rate"])
        lines = (source / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        rows = []
        for number, line in enumerate(lines):
            place = f"{split}/{number:04d}.wav"
            wavfile.write(target / place, rate, stored["samples"][offsets[number] : offsets[number + 1]])
            rows.append({"audio": place, "text": json.loads(line)["text"]})
        (target / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def processor(data: Path) -> Wav2Vec2Processor:
    """The characters of the training texts, and a feature extractor at the rate of the recordings."""
    lines = (data / "train.jsonl").read_text(encoding="utf-8").splitlines()
    vocabulary = data / "vocab.json"
    vocabulary.write_text(json.dumps(characters(json.loads(line)["text"] for line in lines)), encoding="utf-8")
    tokenizer = Wav2Vec2CTCTokenizer(str(vocabulary), bos_token=None, eos_token=None)
    return Wav2Vec2Processor(Wav2Vec2FeatureExtractor(sampling_rate=RATE, return_attention_mask=True), tokenizer)


def new_model(role: str, reader: Wav2Vec2Processor, seed: int) -> Wav2Vec2ForCTC:
    """50 frames a second, of random weights."""
    torch.manual_seed(seed)
    width = SIZES[role]["hidden_size"]
    config = Wav2Vec2Config(
        **SIZES[role], vocab_size=reader.tokenizer.vocab_size, pad_token_id=reader.tokenizer.pad_token_id,
        conv_dim=(width // 2, width // 2, width, width), conv_kernel=(10, 8, 8, 4), conv_stride=(5, 4, 4, 2),
        num_feat_extract_layers=4, feat_extract_norm="layer", do_stable_layer_norm=True, num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4, apply_spec_augment=False, layerdrop=0.0, feat_proj_dropout=0.1,
    )  # fmt: skip
    return Wav2Vec2ForCTC(config)


def saved(folder: Path, role: str, reader: Wav2Vec2Processor, seed: int) -> str:
    if not (folder / "config.json").exists():
        new_model(role, reader, seed).save_pretrained(folder)
        reader.save_pretrained(folder)
    return str(folder)


def recipe(given: argparse.Namespace, student: str, terms: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    """A stage of these terms; with hypotheses, which all students share, where a term reads them."""
    data = given.output / "data"
    arguments = {
        "num_train_epochs": given.epochs, "max_steps": given.max_steps, "learning_rate": given.learning_rate,
        "warmup_steps": 0.1, "per_device_train_batch_size": 16, "use_cpu": not torch.cuda.is_available(),
        "eval_strategy": "no", "save_strategy": "no", "report_to": "none", "disable_tqdm": True,
    }  # fmt: skip
    stage: dict[str, Any] = {"name": "distil", "objectives": terms, "arguments": arguments}
    found: dict[str, Any] = {
        "schema": 1, "seed": seed, "student": {"model": student}, "stages": [stage],
        "data": {"files": {split: str(data / f"{split}.jsonl") for split in SPLITS}, "speech": {}},
    }  # fmt: skip
    if any("ctc_nbest_kd" in term for term in terms):
        writing = {"beams": 16, "hypotheses": 8, "folder": str(given.output / "hypotheses")}
        found["teacher"] = {"model": str(given.output / "teacher"), "generate": writing}
        stage["targets"] = "all"
    return found


def scores(folder: Path) -> dict[str, float]:
    found = json.loads((folder / "eval_results.json").read_text(encoding="utf-8"))
    return {name: found[f"eval_{name}"] for name in ("wer", "cer")}


def table(runs: list[dict[str, Any]]) -> str:
    """Mean and range of every method's error rates, in Markdown."""
    lines = ["| | seeds | wer | range | cer |", "| --- | ---: | ---: | ---: | ---: |"]
    for method in ("teacher", *METHODS):
        mine = [each for each in runs if each["method"] == method]
        if mine:
            wer = [each["wer"] for each in mine]
            lines.append(
                f"| {method} | {len(mine)} | {statistics.mean(wer):.4f} | {min(wer):.4f} to {max(wer):.4f} | "
                f"{statistics.mean(each['cer'] for each in mine):.4f} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--max_steps", type=int, default=-1)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    convert(given.data, given.output / "data")
    reader = processor(given.output / "data")
    place = given.output / "teacher"
    run(recipe(given, saved(given.output / "models" / "teacher", "teacher", reader, 0), METHODS["control"], 0), place)
    runs: list[dict[str, Any]] = [{"method": "teacher", "seed": 0, **scores(place)}]
    for seed in given.seeds:
        student = saved(given.output / "models" / f"student-{seed}", "student", reader, seed)
        for method, terms in METHODS.items():
            place = given.output / method / str(seed)
            run(recipe(given, student, terms, seed), place)
            runs.append({"method": method, "seed": seed, **scores(place)})
            (given.output / "results.json").write_text(json.dumps(runs, indent=1), encoding="utf-8")
            (given.output / "results.md").write_text(table(runs) + "\n", encoding="utf-8")
            print(table(runs), flush=True)


if __name__ == "__main__":
    main()
