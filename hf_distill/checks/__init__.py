"""What a trainer refuses before the first step: set-ups that would train quietly wrong."""

from hf_distill.checks.documents import keeps_documents_apart
from hf_distill.checks.launch import before_training, engine_is_active, engine_of, loaded_in_shards
from hf_distill.checks.models import (
    OF_ENCODERS,
    OWN_TOKENIZER,
    apart,
    equal_tokenizers,
    fits_grids,
    half_precision_student,
    half_precision_teacher,
    has_whole_student,
    same_tokenizer,
    two_tokenizers,
)
from hf_distill.checks.on_policy import fits_on_policy, fits_texts, texts_end, tokens_of
from hf_distill.checks.optimizer import optimizer_is_complete, optimizer_is_current
from hf_distill.checks.rows import (
    fits_batches,
    fits_data,
    fits_joined_evaluation,
    fits_joined_rows,
    fits_positions,
    fits_token_budget,
    left_over,
)
from hf_distill.checks.terms import fits_arguments, fits_passes, fits_steps, has_peers

__all__ = [
    "OF_ENCODERS",
    "OWN_TOKENIZER",
    "apart",
    "before_training",
    "engine_is_active",
    "engine_of",
    "equal_tokenizers",
    "fits_arguments",
    "fits_batches",
    "fits_data",
    "fits_grids",
    "fits_joined_evaluation",
    "fits_joined_rows",
    "fits_on_policy",
    "fits_passes",
    "fits_positions",
    "fits_steps",
    "fits_texts",
    "fits_token_budget",
    "half_precision_student",
    "half_precision_teacher",
    "has_peers",
    "has_whole_student",
    "keeps_documents_apart",
    "left_over",
    "loaded_in_shards",
    "optimizer_is_complete",
    "optimizer_is_current",
    "same_tokenizer",
    "texts_end",
    "tokens_of",
    "two_tokenizers",
]
