"""What gives activations to learn from."""

from hf_distill.teachers.adapter_off import AdapterOff
from hf_distill.teachers.base import Teacher
from hf_distill.teachers.cached import Cached
from hf_distill.teachers.ensemble import Ensemble
from hf_distill.teachers.frozen import Frozen
from hf_distill.teachers.generated import Generated
from hf_distill.teachers.moving_average import MovingAverage
from hf_distill.teachers.peers import Peers

__all__ = ["AdapterOff", "Cached", "Ensemble", "Frozen", "Generated", "MovingAverage", "Peers", "Teacher"]
