"""From a budget to a student: `find`."""

from hf_distill.search.asked import Settings
from hf_distill.search.budget import Budget
from hf_distill.search.finding import Found, find

__all__ = ["Budget", "Found", "Settings", "find"]
