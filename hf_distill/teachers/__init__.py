"""What gives activations to learn from."""

from hf_distill.teachers.base import Teacher
from hf_distill.teachers.cached import Cached
from hf_distill.teachers.frozen import Frozen

__all__ = ["Cached", "Frozen", "Teacher"]
