"""How much of a model runs: the layers, rows and heads that somebody reads, and nothing above them."""

from hf_distill.depth.mask import ready, takes_ready
from hf_distill.depth.plan import runs_whole
from hf_distill.depth.run import Run, shallow

__all__ = ["Run", "ready", "runs_whole", "shallow", "takes_ready"]
