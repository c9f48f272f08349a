"""torchdistill's `DistillationBox` with its `KDLoss`, driven as its text examples drive it."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import SequentialSampler

from peers import textbook
from peers.implementations.optimizer import SETTINGS
from peers.turns import Batches
from peers.workloads import Workload


class StandIn(MetaPathFinder, Loader):
    """torchvision, in name: torchdistill imports it for its image models, which no text model touches."""

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.split(".")[0] == "torchvision" else None

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        return Named(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing to run."""


class Named(types.ModuleType):
    """A module in which every name is a class."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def collate(rows: list[dict[str, Tensor]]) -> tuple[dict[str, Tensor], Tensor]:
    batch = rows[0]
    return batch, batch.pop("labels")


def settings(workload: Workload) -> dict[str, Any]:
    shown = {"forward_proc": "forward_batch_only_as_kwargs", "forward_hook": {"output": ["classifier"]}}
    loss = {
        "student_module_path": "classifier",
        "student_module_io": "output",
        "teacher_module_path": "classifier",
        "teacher_module_io": "output",
        "temperature": workload.temperature,
        "alpha": textbook.ALPHA,
        "reduction": "batchmean",
    }
    return {
        "num_epochs": 1,
        "train_data_loader": {
            "dataset_id": "train",
            "requires_supp": False,
            "sampler": {"class_or_func": SequentialSampler},
            "collate_fn": "first_row",
            "kwargs": {"batch_size": 1},
        },
        "teacher": {**shown, "requires_grad": False},
        "student": shown,
        "optimizer": {"key": "AdamW", "kwargs": dict(SETTINGS)},
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"kd": {"criterion": {"key": "KDLoss", "kwargs": loss}, "weight": 1.0}}},
        },
    }


def run(workload: Workload, teacher: nn.Module, student: nn.Module, data: Batches) -> None:
    if importlib.util.find_spec("torchvision") is None:
        sys.meta_path.append(StandIn())
        importlib.import_module("torchvision.datasets")  # it is looked for among the loaded modules
    from torchdistill.core.distillation import DistillationBox
    from torchdistill.datasets.registry import register_collate_func

    register_collate_func(key="first_row")(collate)
    box = DistillationBox(teacher, student, {"train": data}, settings(workload), torch.device("cpu"), None, False, 1.0)
    box.pre_epoch_process(epoch=0)
    for batch, targets in box.train_data_loader:
        box.pre_forward_process()
        box.post_forward_process(loss=box.forward_process(batch, targets))
