"""Can a model tell the true answer from false ones of the same form, and does it so as a retrained model does?

TOFU (arXiv 2401.06121). Probabilities are length-normalized: exp of minus the mean NLL per token. Wrong answers are
averaged as in TOFU's code, over mean NLLs (a geometric mean of probabilities; the paper's text averages probabilities).
Ratios are kept as logarithms, so that a broken model's are finite; TOFU's code adds 1e-10 to denominators instead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from remanent.errors import InputError


def log_truth_ratio(right: float, wrong: Sequence[float]) -> float:
    """log of the wrong answers' probability over the right one's: below 0, the right one is thought likelier.

    Args:
        right: mean NLL per token of the right answer, in nats: the paraphrased one where it is known, since a model
            may prefer the very words that it was taught.
        wrong: the same of each wrong answer; at least one.
    """
    if not wrong:
        raise InputError("wrong", "none", "the NLL of at least one wrong answer")
    return right - sum(wrong) / len(wrong)


def cannot_tell(log_ratio: float) -> float:
    """min(r, 1/r): 1 where right and wrong are equally likely, towards 0 where the model prefers either."""
    return math.exp(-abs(log_ratio))


@dataclass(frozen=True, slots=True)
class ForgetQuality:
    """The two-sample Kolmogorov-Smirnov test between truth ratios of the audited and of the retrained model.

    Args:
        statistic: the largest distance between the two distributions, in [0, 1]; it does not grow with the records.
        log10_p: log10 of the p-value, 0 where nothing tells the two apart. It counts records as independent, saturates
            with their number, and 40 or fewer hardly ever reject: compare it only between audits of the same records.
    """

    statistic: float
    log10_p: float


def forget_quality(audited: ArrayLike, retrained: ArrayLike) -> ForgetQuality:
    """TOFU's forget quality; rising transforms of the ratios do not change it, so logarithms serve.

    Args:
        audited: (records,): log truth ratios of the forgotten records.
        retrained: likewise, on a model that never saw them.
    """
    from scipy.stats import ks_2samp

    ours, theirs = (np.asarray(values, dtype=np.float64) for values in (audited, retrained))
    if not (ours.size and theirs.size and np.isfinite(ours).all() and np.isfinite(theirs).all()):
        raise InputError("truth ratios", f"{ours.size} and {theirs.size}", "finite ratios of both models, at least one")
    found = ks_2samp(ours, theirs)
    # The smallest double stands for a p-value below it.
    return ForgetQuality(float(found.statistic), math.log10(max(float(found.pvalue), 5e-324)))


def least_quality(records: int) -> float:
    """The smallest log10 of a p-value that so many records on each model can give: where none of the two overlap."""
    return forget_quality(np.arange(records), np.arange(records) + records).log10_p
