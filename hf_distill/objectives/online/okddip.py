"""Peers with targets of their own, and a leader that learns from all of them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from hf_distill.activations import MAIN, Activations, Needs, Signal
from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.losses import at_least_float32, diversity, forward_kl
from hf_distill.objectives.base import Objective
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.registry import register
from hf_distill.objectives.settings import check_choice, check_count, check_number
from hf_distill.objectives.soft_rows import number_of_classes
from hf_distill.pooling import POOLS, pooled
from hf_distill.tasks import Batch, Task

COLLAPSED = 1e-4
"""Peers whose laws are nearer to each other than this have become one."""


@register("okddip")
class OKDDip(Objective):
    """Online distillation with diverse peers (Chen, Mei, Wang, Feng & Chen, 2020, arXiv:1912.00350).

    Each peer a learns from a mixture of all peers that is its own, and the student, their leader, from all alike:

        alpha_ab = softmax_b((W_L h_a) . (W_E h_b)),  t_a from sum_b alpha_ab z_b,  t_g from the mean of z_b
        L = sum_a T^2 KL(t_a || p_a) + T^2 KL(t_g || p_leader),  p = softmax(z / T)

    h is the pooled last state of a peer; W_L, W_E `[projection_size, width]` have no bias, are shared by all peers,
    and learned. The peers are `teachers.Peers`, two at least; the student has no part in the attention. `labels`
    beside it train every model. The authors' code has three peers and a leader, T = 3, a weight that rises to 1 over
    the first 80 of 300 epochs (`weight: {ramp_up: {to: 1.0, stop: 0.27}}`), and W to an eighth of the width, which is
    `projection_size=None`. Peers and leader are networks of their own here (the code's MultiNet), and not branches
    over lower layers that they share.

    `aggregate="logit"` mixes logits, as the code does, and softens the mixture; `prob` mixes the softened laws, as the
    paper reads (unconfirmed). With `detach="none"`, as published, the gradient of a target reaches W and the peers
    that it is mixed of; with `peers` they are constants in it, logits and states, and only W is reached. The code
    adds 1e-7 to the targets, and this does not.

    With three peers a step takes 3.5 times the CPU time of one of soft targets from a trained teacher
    (docs/comparisons.md): it trains four models.

    Reads: logits of the student and of every peer; final states of the peers, pooled to [batch, width] (`pool`).
    Counts: examples. Logs `diversity`, the mean over examples and pairs of peers of |p_a - p_b| at T = 1.
    Errors: `DistillationError` without peers, for a setting out of range, and for `detach="all"`, with which W would
    learn nothing; `IncompatiblePair` for fewer than two peers, for peers of several widths, and for a task without
    one class an example.
    """

    among_peers = True
    trains_peers = True
    takes_members = True
    citation = """@inproceedings{chen2020online,
  title = {Online Knowledge Distillation with Diverse Peers},
  author = {Chen, Defang and Mei, Jian-Ping and Wang, Can and Feng, Yan and Chen, Chun},
  booktitle = {AAAI},
  year = {2020},
  eprint = {1912.00350},
  archivePrefix = {arXiv}
}"""

    def __init__(
        self,
        *,
        temperature: float = 3.0,
        aggregate: str = "logit",
        detach: str = "none",
        projection_size: int | None = None,
        pool: str = "mean",
        stack: str = "",
    ) -> None:
        super().__init__()
        check_number(self.name, "temperature", temperature, 0.0, 1e4, open_low=True)
        check_choice(self.name, "aggregate", aggregate, ("logit", "prob"))
        if detach == "all":
            raise DistillationError(
                f"{self.name}: detach is 'all', and the attention W_L, W_E, which is in the targets alone, would "
                "never get a gradient; set 'peers', with which nothing but it gets one through them, or 'none'."
            )
        check_choice(self.name, "detach", detach, ("none", "peers"))
        if projection_size is not None:
            check_count(self.name, "projection_size", projection_size, 1)
        check_choice(self.name, "pool", pool, POOLS)
        check_choice(self.name, "stack", stack, ("", "encoder", "decoder"))
        self.temperature, self.aggregate, self.detach = temperature, aggregate, detach
        self.projection_size, self.pool, self.stack = projection_size, pool, stack
        self.peers: tuple[str, ...] = ()

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        members = pair.members or {}
        if len(members) < 2:
            raise IncompatiblePair(
                f"{self.name}: there {'is 1 peer' if members else 'are no peers'} beside the student, and an "
                "attention over one is constant; give two peers or more (Peers([…, …])), or use deep_mutual_learning."
            )
        number_of_classes(self.name, pair)
        if pair.task.tokens:
            raise IncompatiblePair(
                f"{self.name}: peers are weighed by one vector a text, and a {pair.task.name} task answers token by "
                "token; use deep_mutual_learning."
            )
        self.peers = tuple(members)
        width = self._width(members)
        size = max(width // 8, 1) if self.projection_size is None else self.projection_size
        self.leading, self.following = (nn.Linear(width, size, bias=False) for _ in range(2))

    def _width(self, members: Mapping[str, Pair]) -> int:
        widths: dict[str, int] = {}
        for name, pair in members.items():
            shape = (pair.student if pair.teacher is None else pair.teacher).stack(self.stack)
            if self.pool == "first_token" and shape.causal:
                raise IncompatiblePair(
                    f"{self.name}: the peer {name!r} is causal, so its first token has seen nothing but itself; set "
                    "pool='last_token' or 'mean'."
                )
            widths[name] = shape.hidden_size
        if len(set(widths.values())) > 1:
            raise IncompatiblePair(
                f"{self.name}: the peers are {', '.join(f'{w} ({n})' for n, w in widths.items())} wide, and one "
                "attention reads the states of all; give peers of one width."
            )
        return next(iter(widths.values()))

    @property
    def logs(self) -> tuple[str, ...]:
        return ("diversity",)

    def needs(self) -> Needs:
        final = [Signal("final", None, self.stack, MAIN, name) for name in self.peers]
        return Needs.of([Signal("logits")], [*final, *(Signal("logits", None, "", MAIN, name) for name in self.peers)])

    def count(self, batch: Batch, task: Task) -> Tensor | int:
        return task.num_examples(batch)

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        if teacher is None:
            raise DistillationError(f"objective {self.name!r} got no peers.")
        leader = at_least_float32(student.logits)
        shown = [teacher.member(name) for name in self.peers]
        logits = torch.stack([at_least_float32(each.logits) for each in shown])
        self._look_at(logits)
        return self.first_level(logits, self.attention(self._features(shown))) + self.second_level(logits, leader)

    def _features(self, shown: list[Activations]) -> Tensor:
        """`[peers, batch, width]`."""
        vectors = []
        for each in shown:
            side = each.stack(self.stack)
            if side.mask is None:
                raise DistillationError(f"objective {self.name!r} got activations without a mask.")
            vectors.append(pooled(at_least_float32(side.final), side.mask, self.pool))
        together = torch.stack(vectors)
        return together.detach() if self.detach == "peers" else together

    @torch.no_grad()
    def _look_at(self, logits: Tensor) -> None:
        apart = diversity(logits)
        self.note("diversity", apart.sum())
        self.remark(
            apart.mean() < COLLAPSED,
            f"the peers' laws are less than {COLLAPSED:g} apart: they have become one, and have nothing to tell each "
            "other. Start them from other seeds or checkpoints.",
        )

    def attention(self, features: Tensor) -> Tensor:
        """log alpha `[peers, peers, batch]`, where alpha sums to 1 over the second axis; `features` `[peers, batch,
        width]`."""
        dtype = torch.promote_types(features.dtype, torch.float32)
        asked = functional.linear(features, self.leading.weight.to(dtype))
        given = functional.linear(features, self.following.weight.to(dtype))
        return torch.einsum("abp,cbp->acb", asked, given).log_softmax(1)

    def first_level(self, logits: Tensor, log_weights: Tensor) -> Tensor:
        """sum_a T^2 KL(t_a || p_a), summed over the examples; `logits` `[peers, batch, classes]`."""
        targets = torch.stack([self.target(logits, each) for each in log_weights])
        return self._divergence(logits, targets).sum()

    def second_level(self, logits: Tensor, leader: Tensor) -> Tensor:
        """T^2 KL(t_g || p_leader), summed over the examples."""
        alike = -logits.new_full(logits.shape[:1], len(logits)).log().unsqueeze(1)
        return self._divergence(leader, self.target(logits, alike)).sum()

    def target(self, logits: Tensor, log_weights: Tensor) -> Tensor:
        """Logits `[batch, classes]` whose law at the temperature is a mixture of the peers, with these weights
        `[peers, batch]`."""
        given = logits.detach() if self.detach == "peers" else logits
        shares = log_weights.unsqueeze(-1)
        if self.aggregate == "logit":
            return (shares.exp() * given).sum(0)
        return self.temperature * (shares + functional.log_softmax(given / self.temperature, -1)).logsumexp(0)

    def _divergence(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self.temperature**2 * forward_kl(logits / self.temperature, targets / self.temperature)
