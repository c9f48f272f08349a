"""What a teacher showed for each row, on disk."""

from hf_distill.teachers.cache import codecs, quantised, recorded

__all__ = ["codecs", "quantised", "recorded"]
