"""`distill_mlm`: pre-training on raw text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from hf_distill.commands.flags import ON_POLICY, flag, whole
from hf_distill.commands.overrides import OF_HUB, Changes, Script, on_policy, refuse_beside
from hf_distill.commands.script import entry_points
from hf_distill.data.packing import PACKINGS
from hf_distill.data.streams import UNITS
from hf_distill.errors import RecipeError
from hf_distill.recipe import Recipe, TextSource
from hf_distill.tasks import Encoder, MaskedLM

DESCRIPTION = """Distil a teacher into a smaller student on raw text, with masked words, or without a head (--encoder).

Several sources with weights, and text from the Hub for validation, are for recipes (data.text). Flags alone stand for
DistilBERT's losses: soft targets 5, labels 2, the cosine of the last hidden states 1.

  hf-distill mlm --train_file corpus.txt --teacher_name_or_path TEACHER \\
      --student_layers 6 --student_pick distilbert --output_dir students/pretrained
  hf-distill mlm --recipe pretraining/minilm_v2_6x384 --train_file corpus.txt \\
      --output_dir students/minilm"""

SOURCE = ("train_file", "dataset_name")
"""The flags of which one says where the training text is."""

FLAGS: dict[str, dict[str, Any]] = {
    "train_file": flag("Files of text to train on (.txt, .jsonl, both also .gz, .parquet).", nargs="+"),
    "validation_file": flag("Files of text to validate on; without them rows are held out.", nargs="+"),
    "dataset_name": flag("A data set on the Hub to train on, which is streamed."),
    "dataset_config_name": flag("Its configuration."),
    "dataset_split": flag("Its split (default: train)."),
    "dataset_revision": flag("Its branch, tag or commit."),
    "max_train_documents": flag("Read so many documents at most, of a Hub data set for example.", whole),
    "text_column": flag("The column of the text in .jsonl, .parquet and on the Hub (default: the recipe's, or text)."),
    "text_unit": flag("What a document is in a .txt file (default: the recipe's, or line).", choices=UNITS),
    "held_out": flag("Rows held out for validation, at most a tenth (default: 1000).", whole),
    "packing": flag("Full rows, rows of whole documents, or one document a row.", choices=PACKINGS),
    "streaming": {
        "help": "Tokenise while training instead of storing tokens on the disk first; needs --max_steps and "
        "--validation_file.",
        "action": "store_true",
    },
    "shuffle_buffer": flag("Rows of a stream that are held to be shuffled (default: 10000).", whole),
    "cache_dir": flag("Where tokens are stored (default: beside the caches of the library datasets)."),
    "mlm_probability": flag("The share of tokens to predict (default: 0.15).", float),
    "mlm_smoothing": flag("Prefer rare tokens; DistilBERT has 0.7.", float),
    "whole_word": {"help": "Hide whole words.", "action": "store_true"},
    "encoder": {
        "help": "Models without a head, for objectives of hidden states and relations (with a recipe).",
        "action": "store_true",
    },
    **ON_POLICY,
}

KEYS = {
    "held_out": "held_out",
    "packing": "packing",
    "streaming": "streaming",
    "shuffle_buffer": "shuffle",
    "cache_dir": "cache_dir",
    "mlm_probability": "masking.probability",
    "mlm_smoothing": "masking.smoothing",
    "whole_word": "masking.whole_word",
}
"""Where flags stand below `data.text`."""

STAGES = [
    {
        "name": "distil",
        "objectives": [
            {"soft_targets": {"temperature": 2.0}, "weight": 5.0},
            {"labels": {}, "weight": 2.0},
            {"hidden_cosine": {"layer_map": "final"}, "weight": 1.0},
        ],
        "arguments": {
            "learning_rate": 5.0e-4,
            "adam_beta2": 0.98,
            "adam_epsilon": 1.0e-6,
            "warmup_steps": 0.05,
            "max_grad_norm": 5.0,
            "eval_strategy": "steps",
            "eval_steps": 0.1,
            "save_strategy": "steps",
            "save_steps": 0.05,
        },
    }
]
"""DistilBERT's losses and optimizer (Sanh et al., 2019, arXiv:1910.01108), and a checkpoint every twentieth of the
steps, as an epoch may take days."""


def _data_name(own: Mapping[str, Any]) -> str | None:
    if "train_file" in own:
        return PurePath(own["train_file"][0]).name.partition(".")[0]
    return PurePath(own["dataset_name"]).name if "dataset_name" in own else None


def _data(own: Mapping[str, Any], recipe: Recipe) -> Changes:
    given = [name for name in SOURCE if name in own]
    if len(given) > 1:
        raise RecipeError("command line: --train_file and --dataset_name are both given; a recipe mixes sources.")
    refuse_beside(own, "train_file", "dataset_name", (*OF_HUB, "dataset_split"))
    train, validation = _sources(recipe)
    changes: Changes = {}
    if given:
        before = {} if recipe.data is None or recipe.data.text is None else recipe.data.text.model_dump()
        text = {key: value for key, value in before.items() if key != "validation"}
        changes["data"] = (f"--{given[0]}", {"text": {**text, "train": [_source(own, train)]}})
        changes["task"] = (f"--{given[0]}", None)
    else:
        _need_text(own, recipe)
    if "validation_file" in own:
        source = {"files": own["validation_file"], **_form(own, validation or train)}
        changes["data.text.validation"] = ("--validation_file", [source])
    if own.get("encoder"):
        changes["data.text.task"] = ("--encoder", Encoder.name)
    changes |= on_policy(own, recipe)
    return changes | {f"data.text.{key}": (f"--{name}", own[name]) for name, key in KEYS.items() if name in own}


def _sources(recipe: Recipe) -> tuple[Sequence[TextSource], Sequence[TextSource]]:
    """Those of the recipe, to train on and to validate on; empty where it has none."""
    text = None if recipe.data is None else recipe.data.text
    return ([], []) if text is None else (text.train, text.validation or [])


def _source(own: Mapping[str, Any], before: Sequence[TextSource]) -> dict[str, Any]:
    """The one that the flags name, in place of those of the recipe."""
    most = {"documents": own["max_train_documents"]} if "max_train_documents" in own else {}
    if "train_file" in own:
        return {"files": own["train_file"], **_form(own, before), **most}
    keys = {"id": "dataset_name", "config": "dataset_config_name", "split": "dataset_split"}
    keys["revision"] = "dataset_revision"
    return {"hub": {key: own[name] for key, name in keys.items() if name in own}, **_form(own, before), **most}


def _form(own: Mapping[str, Any], before: Sequence[TextSource]) -> dict[str, str]:
    """What a source's column and unit are: what the flags say, else what all of the recipe's sources have."""
    names = {"column": "text_column", "unit": "text_unit"}
    shared = [key for key in names if len({getattr(source, key) for source in before}) == 1]
    kept = {key: getattr(before[0], key) for key in shared}
    return {**kept, **{key: own[name] for key, name in names.items() if name in own}}


def _need_text(own: Mapping[str, Any], recipe: Recipe) -> None:
    """Raises: `RecipeError` for flags about text on top of a recipe that has none."""
    has_text = recipe.data is not None and recipe.data.text is not None
    of_source = [name for name in FLAGS if name.startswith(("dataset_", "text_", "max_train_d")) and name in own]
    others = [name for name in FLAGS if name in own and not has_text]
    if of_source or others:
        name = (of_source or others)[0]
        raise RecipeError(
            f"command line: --{name} goes with --train_file or --dataset_name"
            + ("." if of_source else ", or with a recipe of raw text.")
        )


SCRIPT = Script(
    name="mlm",
    description=DESCRIPTION,
    flags=FLAGS,
    plain={
        "schema": 1,
        "data": {"text": {"train": [{"files": ["train.txt"]}], "task": MaskedLM.name}},
        "teacher": {"model": "teacher"},
        "student": {"from_layers": {"layers": 1}},
        "stages": STAGES,
    },
    data_name=_data_name,
    data=_data,
)

parser, main = entry_points(SCRIPT)
