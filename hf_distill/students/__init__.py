"""Makers of students."""

from hf_distill.students.layers import from_layers

__all__ = ["from_layers"]
