"""How near generated texts are to their references: BLEU, chrF and ROUGE, from 0 to 100."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence

from hf_distill.errors import DataError, DistillationError

METRICS = ("bleu", "chrf", "rouge1", "rouge2", "rougeL")
PACKAGES = ("sacrebleu", "rouge_score")
_WORD = re.compile(r"[^\W_]+")


def check_installed() -> None:
    """Raises: `DistillationError` where the packages that count are missing."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise DistillationError(
            f"generated texts are scored by the packages {' and '.join(PACKAGES)}, and {missing[0]} is not installed: "
            'pip install "hf_distill[generation]"'
        )


def text_metrics(found: Sequence[str], wanted: Sequence[str]) -> dict[str, float]:
    """`bleu` and `chrf` over all texts, as sacrebleu counts them by default (13a tokens, mixed case, chrF2; Post,
    2018, arXiv:1804.08771; Popović, 2015), and `rouge1`, `rouge2`, `rougeL`, the mean F-measures of the texts without
    stemming (Lin, 2004).

    ROUGE's words are runs of letters and digits of any script in lower case; for ASCII these are the words of the
    rouge_score package, which drops every other letter.

    Raises: `DataError` for no texts, or another number of references; `DistillationError` as `check_installed`.
    """
    if not found or len(found) != len(wanted):
        raise DataError(f"generated texts: there are {len(found)}, and {len(wanted)} references.")
    check_installed()
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    names = [name for name in METRICS if name.startswith("rouge")]
    scorer = RougeScorer(names, tokenizer=_Words())
    scored = [scorer.score(reference, text) for text, reference in zip(found, wanted, strict=True)]
    return {
        "bleu": float(BLEU().corpus_score(list(found), [list(wanted)]).score),
        "chrf": float(CHRF().corpus_score(list(found), [list(wanted)]).score),
        **{name: 100 * sum(each[name].fmeasure for each in scored) / len(scored) for name in names},
    }


class _Words:
    """What rouge_score asks of a tokenizer."""

    def tokenize(self, text: str) -> list[str]:
        """The words of a text."""
        return _WORD.findall(text.lower())
