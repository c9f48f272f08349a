"""The implementations that can be measured: what each can express, and the environment that it needs."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

EVERY_KIND = ("classifier", "relations", "masked_lm", "causal_lm")


@dataclass(frozen=True)
class Implementation:
    """`kinds`: the losses that it can express. `requirements`: the packages of its own environment, none of which
    pulls in others; empty where this environment will do. `same_loss`: False where it trains by another loss, so that
    its gradient is not compared. `beta`: whether it has the generalised JSD too."""

    name: str
    kinds: tuple[str, ...]
    requirements: tuple[str, ...] = ()
    same_loss: bool = True
    beta: bool = True

    @property
    def module(self) -> str:
        return f"peers.implementations.{self.name}"

    def can(self, kind: str, beta: float) -> bool:
        return kind in self.kinds and (beta == 0.0 or self.beta)


CATALOGUE: dict[str, Implementation] = {
    made.name: made
    for made in (
        Implementation("floor", EVERY_KIND),
        Implementation("floor_nocut", ("classifier",)),
        Implementation("loop", EVERY_KIND),
        Implementation("hf_kd", EVERY_KIND),
        Implementation("hf_control", ("classifier", "masked_lm", "causal_lm"), same_loss=False),
        Implementation("hf_distill", EVERY_KIND),
        Implementation(
            "textbrewer", ("classifier", "masked_lm"), ("textbrewer==0.2.1.post1", "tensorboardX==2.6.5", "protobuf")
        ),
        Implementation("torchdistill", ("classifier",), ("torchdistill==1.1.5",)),
        Implementation(
            "modelopt",
            ("classifier", "causal_lm"),
            (
                "nvidia-modelopt==0.47.0",
                "omegaconf",
                "antlr4-python3-runtime==4.9.3",
                "pulp<4",
                "nvidia-ml-py",
            ),
            beta=False,
        ),
        Implementation("bertdistiller", ("relations",), ("bertdistiller==0.1.2", "loguru")),
        Implementation("liger", ("causal_lm",), ("liger-kernel==0.8.5",)),
        Implementation("trl", ("causal_lm",), ("trl==1.16.0",)),
    )
}


def run_of(name: str):  # type: ignore[no-untyped-def]
    """The function that trains; importing it imports the toolkit."""
    return importlib.import_module(CATALOGUE[name].module).run
