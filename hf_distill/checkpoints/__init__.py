"""Checkpoints: whole or not at all, of this run or refused, and who goes when there are too many."""

from hf_distill.checkpoints.arguments import ARGUMENTS, let_others_read, replace_pickled_arguments
from hf_distill.checkpoints.learned import (
    OBJECTIVES,
    TEACHER,
    read_objectives,
    read_teacher,
    write_objectives,
    write_teacher,
)
from hf_distill.checkpoints.manifest import MANIFEST, Manifest
from hf_distill.checkpoints.same_batches import check_known_order, check_same_budget
from hf_distill.checkpoints.same_run import DIFFERENCES, check_same_engine, check_same_run, known_differences
from hf_distill.checkpoints.whole import check_intact, checkpoints_in, fault_of, last_whole, step_of, to_resume_from
from hf_distill.checkpoints.writing import abandon, begin, part_of, put_in_place, rotate, seal

__all__ = [
    "ARGUMENTS",
    "DIFFERENCES",
    "MANIFEST",
    "OBJECTIVES",
    "TEACHER",
    "Manifest",
    "abandon",
    "begin",
    "check_intact",
    "check_known_order",
    "check_same_budget",
    "check_same_engine",
    "check_same_run",
    "checkpoints_in",
    "fault_of",
    "known_differences",
    "last_whole",
    "let_others_read",
    "part_of",
    "put_in_place",
    "read_objectives",
    "read_teacher",
    "replace_pickled_arguments",
    "rotate",
    "seal",
    "step_of",
    "to_resume_from",
    "write_objectives",
    "write_teacher",
]
