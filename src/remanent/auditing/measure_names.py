"""Names of the measures in evidence: what judging and reports look them up by, without what computes them."""

from __future__ import annotations

LOSS, ZLIB, MIN_K, MIN_K_PLUS, REFERENCE = "loss", "zlib", "min-k", "min-k++", "reference"
ATTACKS = (LOSS, ZLIB, MIN_K, MIN_K_PLUS, REFERENCE)  # on scores; sampled answers make one more, "answers"

# "membership-<attack>": AUC of forget against control. With TPR: true positives at 1% false ones; with BEYOND: the AUC
# minus the retrained model's on the same records.
MEMBERSHIP, TPR, BEYOND = "membership-", "-tpr", "-beyond"

EXACT, STRENGTH, TRUTH, ANSWERS = "exact-memorization", "extraction-strength", "truth-ratio", "answers"
PRIV_LEAK, QUALITY, DISTANCE = "priv-leak", "forget-quality", "forget-quality-distance"
