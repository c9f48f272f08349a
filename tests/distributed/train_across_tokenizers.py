"""Run by torchrun: trains with a teacher that reads by its own tokenizer; saves each rank's weights and logs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast

from hf_distill import DistillationTrainer
from hf_distill.data.aligned_rows import align_texts
from hf_distill.objectives import GOLD, ULD, Labels, Terms
from tests.test_across_tokenizers import trainer
from tests.tokenizers_of_kinds import CORPUS


def terms() -> Terms:
    """Of examples and of spans, of which the ranks have other numbers."""
    return 1.5 * ULD() + GOLD(match="text", reduction="span_mean") + Labels()


def trained(folder: Path, **arguments: object) -> DistillationTrainer:
    """Four steps of SGD with the tokenizers in the folder: their training is another one in every process."""
    tokens = [PreTrainedTokenizerFast.from_pretrained(folder / role) for role in ("student", "teacher")]
    rows = align_texts([*CORPUS[:3], "the dog"], *tokens, max_length=48).rows
    made = trainer(terms(), rows=rows, tokens=tokens, max_steps=4, **arguments)
    made.train()
    return made


def main() -> None:
    folder = Path(sys.argv[1])
    made = trained(folder, per_device_train_batch_size=1, gradient_accumulation_steps=2)
    if made.accelerator.num_processes != 2:
        raise SystemExit("not two processes")
    state = {name: parameter.detach().clone() for name, parameter in made.distillation.named_parameters()}
    save_file(state, folder / f"{made.args.process_index}.safetensors")
    (folder / f"{made.args.process_index}.json").write_text(
        json.dumps([row for row in made.state.log_history if "loss" in row])
    )
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
