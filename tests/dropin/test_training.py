"""Training arguments: each does to a `DistillationTrainer` what it does to the `Trainer`."""

from __future__ import annotations

from typing import Any

import pytest

from tests import tiny
from tests.dropin import sides

ADAM = {"optim": "adamw_torch_fused", "learning_rate": 1e-3, "max_grad_norm": 1.0}
SHUFFLED = {"train_sampling_strategy": "random"}
EVALUATED = {"eval_strategy": "steps", "eval_steps": 2}

WORKING = {"dataloader_num_workers": 2, "dataloader_prefetch_factor": 1, "dataloader_persistent_workers": True}

SETTINGS: dict[str, dict[str, Any]] = {
    "adamw_torch, cosine": {
        "optim": "adamw_torch",
        "weight_decay": 0.1,
        "adam_beta1": 0.8,
        "adam_beta2": 0.9,
        "adam_epsilon": 1e-6,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 2,
    },
    "adafactor, polynomial": {
        "optim": "adafactor",
        "lr_scheduler_type": "polynomial",
        "lr_scheduler_kwargs": {"power": 2.0, "lr_end": 1e-4},
    },
    "adagrad, cosine_with_restarts": {
        "optim": "adagrad",
        "lr_scheduler_type": "cosine_with_restarts",
        "lr_scheduler_kwargs": {"num_cycles": 2},
    },
    "rmsprop with optim_args, inverse_sqrt": {
        "optim": "rmsprop",
        "optim_args": "alpha=0.9,momentum=0.5",
        "lr_scheduler_type": "inverse_sqrt",
        "warmup_steps": 1,
    },
    "sgd, cosine_with_min_lr": {
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr": 0.01},
    },
    "warmup as a share, warmup_stable_decay": {
        "lr_scheduler_type": "warmup_stable_decay",
        "lr_scheduler_kwargs": {"num_decay_steps": 1},
        "warmup_steps": 0.25,
    },
    "reduce_lr_on_plateau": {
        **EVALUATED,
        "eval_steps": 1,
        "learning_rate": 0.8,
        "lr_scheduler_type": "reduce_lr_on_plateau",
        "lr_scheduler_kwargs": {"patience": 0, "factor": 0.5},
        "metric_for_best_model": "loss",
        "max_steps": 6,
    },
    "shuffled by seed": {**SHUFFLED, "seed": 7},
    "shuffled by data_seed": {**SHUFFLED, "seed": 7, "data_seed": 3},
    "batch_rebalance": {"train_sampling_strategy": "batch_rebalance", "length_column_name": "none"},
    "epochs in part": {**SHUFFLED, "max_steps": -1, "num_train_epochs": 1.5},
    "epochs without the last batch": {"max_steps": -1, "num_train_epochs": 2, "dataloader_drop_last": True},
    "steps as shares": {"logging_steps": 0.5, "eval_strategy": "steps", "eval_steps": 0.5},
    "logging_first_step": {"logging_first_step": True, "logging_steps": 4},
    "logging by epoch": {"logging_strategy": "epoch", "max_steps": -1, "num_train_epochs": 2},
    "no logging": {"logging_strategy": "no"},
    "eval_on_start, eval_delay": {"eval_on_start": True, "eval_delay": 3, **EVALUATED},
    "evaluation by epoch": {"eval_strategy": "epoch", "max_steps": -1, "num_train_epochs": 2},
    "tokens seen, padding too": {"include_num_input_tokens_seen": "all"},
    "tokens seen": {"include_num_input_tokens_seen": "non_padding"},
    "neftune": {"neftune_noise_alpha": 5.0},
    "max_grad_norm": {"max_grad_norm": 0.05},
    "torch_empty_cache_steps, no average over devices": {
        "torch_empty_cache_steps": 1,
        "average_tokens_across_devices": False,
    },
    "checkpointed activations": sides.checkpointing({"use_reentrant": False}),
    "reentrant checkpointing": sides.checkpointing({"use_reentrant": True}),
    "workers": {**WORKING, **SHUFFLED},
    "bf16": {"bf16": True, "learning_rate": 1e-3},
    "memory metrics": {"skip_memory_metrics": False},
    "accelerator_config": {"accelerator_config": {"use_seedable_sampler": False, "even_batches": False}, **SHUFFLED},
}
FAST = (
    "rmsprop with optim_args, inverse_sqrt",
    "shuffled by data_seed",
    "epochs in part",
    "steps as shares",
    "no logging",
    "eval_on_start, eval_delay",
    "tokens seen",
    "neftune",
    "reentrant checkpointing",
)


@pytest.mark.parametrize("settings", sides.cases(SETTINGS, FAST))
def test_an_argument_trains_like_the_trainer(settings: dict[str, Any]) -> None:
    runs = {}
    for side, make in sides.SIDES.items():
        trainer = make({"max_steps": 4, **settings})
        trainer.train()
        for row in trainer.state.log_history:
            for name in [name for name in row if "_mem_" in name]:
                del row[name]
        runs[side] = trainer
    sides.assert_same_run(runs["ours"], runs["stock"], within=3e-3 if "bf16" in settings else 1e-6)
    by_steps = settings.get("lr_scheduler_type") != "reduce_lr_on_plateau"
    sides.assert_trained_alike(runs["taught"], runs["stock"], same_rates=by_steps)
    assert tiny.distance(runs["taught"].model, runs["ours"].model) > 1e-6
