"""Can an attacker who holds a text tell whether the model was trained on it: membership inference.

One orientation throughout. A score says how *member-like* a text is; the AUC is the chance that a forgotten record
looks more member-like than an unseen control record, ties half. 1: clearly remembered; 0.5: cannot be told; 0:
overdone, the hole marks the deleted records as well as the memory did. An ideal of 0.5 holds where forget and control
differ in nothing but training; a retrained model's AUC says how far they do.

Scores: loss (Yeom et al., arXiv 1709.01604), zlib (Carlini et al., arXiv 2012.07805; mean NLL over compressed size, as
OpenUnlearning has it), Min-K% (Shi et al., arXiv 2310.16789), Min-K%++ (Zhang et al., arXiv 2404.02936), calibrated by
a reference model (Watson et al., arXiv 2111.08440). PrivLeak: MUSE (arXiv 2407.06460).
"""

from __future__ import annotations

import math
import zlib

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from remanent.auditing.intervals import Interval, Sample, auc_pair_interval
from remanent.auditing.measure_names import LOSS, MIN_K, MIN_K_PLUS, ZLIB
from remanent.core.token_scores import TokenScores

SHARE = 0.4  # of the tokens, as in MUSE and OpenUnlearning
FALSE_POSITIVES = 0.01
LEAST_DEVIATION = 1e-3  # the root of OpenUnlearning's floor of 1e-6 under the variance


def member_likeness(scores: TokenScores, text: str) -> dict[str, float]:
    """How member-like a record looks, by every attack that needs the audited model alone; higher is more so.

    Args:
        scores: of the record's tokens, at least one.
        text: what was scored.
    """
    nll = scores.nll
    standardized = (scores.log_probs - scores.means) / scores.deviations.clamp_min(LEAST_DEVIATION)
    return {
        LOSS: -nll,
        ZLIB: -nll / len(zlib.compress(text.encode("utf-8", "surrogatepass"))),
        MIN_K: lowest_mean(scores.log_probs),
        MIN_K_PLUS: lowest_mean(standardized),
    }


def calibrated(nll: float, reference: float) -> float:
    """The reference model's mean NLL minus the audited one's: what is known here and is not easy as such."""
    return reference - nll


def lowest_mean(values: Tensor, share: float = SHARE) -> float:
    """The mean of the lowest max(1, floor(share n)) of n values: how surprising the most surprising tokens are.

    NaN where one of them all is, which sorting would put last.
    """
    if bool(values.isnan().any()):
        return math.nan
    count = max(1, int(share * len(values)))
    return float(values.double().sort().values[:count].mean())


def priv_leak(
    ours: tuple[Sample, Sample],
    retrained: tuple[Sample, Sample],
    generator: np.random.Generator,
    alpha: float = 0.05,
    resamples: int = 2000,
) -> Interval:
    """100 (A - A_r) / A_r with A = 1 - AUC by Min-K%, A_r the retrained model's. In percent.

    About -100: still remembered; 0: as if never seen; far above: overdone. MUSE calls -5 to 5 good.

    Args:
        ours, retrained: (forget, control) member-likeness of the same records on each model.
    """

    def relative(auc: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
        return 100 * (other - auc) / (1 - other + 1e-10)

    return auc_pair_interval(ours, retrained, relative, generator, alpha, resamples)
