"""Runs in a process of its own: trains a tiny student, pushes it three times, and prints what the trainer returned as
JSON.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import transformers

from hf_distill import DistillationTrainer, HiddenMSE, HubError, Labels, SoftTargets
from tests import tiny
from tests.hub.conftest import tiny_tokenizer


def main() -> None:
    folder, repo_id = sys.argv[1:]
    transformers.logging.set_verbosity_error()
    arguments = {
        "output_dir": folder,
        "push_to_hub": True,
        "hub_model_id": repo_id,
        "save_strategy": "steps",
        "save_steps": 2,
        "hub_strategy": "every_save",
    }
    trainer = DistillationTrainer(
        model=tiny.model("single_label", seed=1),
        teacher=tiny.model("single_label", layers=4, hidden=48, seed=2),
        objectives=SoftTargets() + Labels() + HiddenMSE(),
        args=tiny.arguments(**arguments),
        train_dataset=tiny.rows("single_label"),
        eval_dataset=tiny.rows("single_label", 8),
        data_collator=tiny.Pad(),
        processing_class=None,
    )
    trainer.processing_class = tiny_tokenizer()
    trainer.train()
    trainer.evaluate()
    first = trainer.push_to_hub(license="apache-2.0")
    second = trainer.push_to_hub(license="apache-2.0")
    trainer.push_to_hub(revision="state", include_objective_state=True)
    errors = []
    for call in ({"token": "hf_" + "x" * 30}, {"blocking": False}):
        try:
            trainer.push_to_hub(**call)
        except HubError as error:
            errors.append(str(error))
    print(json.dumps({"first": asdict(first), "second": asdict(second), "errors": errors}, default=dict))


if __name__ == "__main__":
    main()
