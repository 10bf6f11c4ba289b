"""Names of the measures in evidence: what judging and reports look them up by, without what computes them."""

from __future__ import annotations

LOSS, ZLIB, MIN_K, MIN_K_PLUS, REFERENCE = "loss", "zlib", "min-k", "min-k++", "reference"
STEEPNESS, REMIND = "steepness", "remind"  # of the loss round a text: its slope, and a classifier on all its figures
GRADIENT = "gradient-norm"  # at its own condition, since it takes a backward pass for each record
# On scores; sampled answers make one more, "answers".
ATTACKS = (LOSS, ZLIB, MIN_K, MIN_K_PLUS, REFERENCE, GRADIENT, STEEPNESS, REMIND)
FITTED = (REMIND,)  # attacks that were fitted to tell the two sets apart: towards 1 is told, on whichever side

# "membership-<attack>": AUC of forget against control. With TPR: true positives at 1% false ones; with BEYOND: the AUC
# minus the retrained model's on the same records.
MEMBERSHIP, TPR, BEYOND = "membership-", "-tpr", "-beyond"

EXACT, STRENGTH, TRUTH, ANSWERS = "exact-memorization", "extraction-strength", "truth-ratio", "answers"
PRIV_LEAK, QUALITY, DISTANCE = "priv-leak", "forget-quality", "forget-quality-distance"

# BLUR: recall of a forgotten answer where its question stands beside a retained one, and alone; of the retained
# answer likewise; how much worse either is for standing together; and what relearned records have in common with it.
LEAKED, LEAKED_ALONE, SERVED, SERVED_ALONE = "leaked", "leaked-alone", "served", "served-alone"
LEAK_GAP, SERVED_GAP, RELEARNED = "leak-gap", "served-gap", "relearned-likeness"
CLOSENESS = "relearned-closeness"  # the same in meaning: of hidden states
RELEARNED_AREA = "relearned-area"  # what comes back, on average over the steps of an attack

# TOFU's three numbers of a set, and the harmonic mean of all; MUSE's memorization.
PROBABILITY, RECALL, TRUE_BETTER, UTILITY = "probability", "recall", "true-better", "model-utility"
VERBATIM, KNOWLEDGE = "verbatim", "knowledge"
BENCHMARK = "benchmark"  # share of a public benchmark's questions that were answered rightly

# Of the survey's: runs of tokens that are written by heart, tokens known by heart, the rank of an answer; how language
# reads; how far from another model; how soon it is known again, as time and against a model that never knew.
LIKELIHOOD, MEMORIZATION, EXPOSURE = "extraction-likelihood", "memorization-accuracy", "exposure"
PERPLEXITY, ENTROPY, REPETITION = "perplexity", "entropy", "repetition"
JENSEN_SHANNON, KULLBACK_LEIBLER, ZERO_RETRAIN = "js-divergence", "kl-divergence", "zero-retrain-forgetting"
RELEARN_TIME, ANAMNESIS, ANAMNESIS_UNSEEN = "relearn-time", "anamnesis-index", "anamnesis-against-unseen"
# How far from another model: its likeliest tokens, its probabilities, its last hidden states, its weights.
AGREEMENT, PROBABILITY_DISTANCE = "agreement", "probability-distance"
ACTIVATION_DISTANCE, WEIGHT_DISTANCE = "activation-distance", "weight-distance"
RELEARNT = "relearnt-after-"  # one record's accuracy after so many updates, of which no measure is made alone

# PGA's probes of hidden states: how far the best of them tells forgotten from unseen groups, and unseen from other
# unseen ones; the difference of the two, and that of the means over all probes and depths.
PROBE_DISTANCE, PROBE_GAP, PROBE_GAP_MEAN = "probe-distance", "probe-gap", "probe-gap-mean"
PROBED = "probed-"  # one group's accuracy by one probe at one depth, of which no measure is made alone

NEIGHBOURHOOD = "neighbourhood-"  # figures of one record's neighbourhood, of which no measure is made alone
# The classifier's AUC on figures that do not hold the loss itself; and how much further than the loss's AUC the full
# classifier's lies from one half.
REMIND_AROUND, REMIND_GAIN = "remind-around", "remind-gain"

# Every measure that an audit can make, in the order of its report.
NAMES = (
    *(MEMBERSHIP + attack + end for attack in (*ATTACKS, ANSWERS) for end in ("", TPR, BEYOND)),
    *(REMIND_AROUND, REMIND_GAIN, PRIV_LEAK, EXACT, STRENGTH, TRUTH, QUALITY, DISTANCE, ANSWERS),
    *(LEAKED, LEAKED_ALONE, LEAK_GAP, SERVED, SERVED_ALONE, SERVED_GAP, RELEARNED, CLOSENESS, RELEARNED_AREA),
    *(PROBABILITY, RECALL, TRUE_BETTER, UTILITY, VERBATIM, KNOWLEDGE, BENCHMARK),
    *(LIKELIHOOD, MEMORIZATION, EXPOSURE, PERPLEXITY, ENTROPY, REPETITION),
    *(JENSEN_SHANNON, KULLBACK_LEIBLER, ZERO_RETRAIN, RELEARN_TIME, ANAMNESIS, ANAMNESIS_UNSEEN),
    *(AGREEMENT, PROBABILITY_DISTANCE, ACTIVATION_DISTANCE, WEIGHT_DISTANCE),
    *(PROBE_DISTANCE, PROBE_GAP, PROBE_GAP_MEAN),
)
