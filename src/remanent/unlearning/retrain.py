"""Retraining: what a model would be that never saw the records. The gold reference that unlearning is measured to.

Starts from the base model and trains on everything that is to be kept, with the recipe that taught the model. It is
exact by construction, and costs a training.
"""

from __future__ import annotations

from dataclasses import replace

from remanent.core.catalogue import System
from remanent.core.method import Method
from remanent.core.task import teach

SYSTEM = System(
    name="retrain",
    title="Retraining from the base model on what is kept",
    year=2015,
    arxiv="",
    card="tofu-muse-wmdp",
    family="unlearning",
    leaf="global/retraining",
    reproduction="tests/reproductions/test_certificate.py",
    needs=("base model", "all retained records"),
)


def method() -> Method:
    """Retraining: the teaching recipe, on the retained records, from the base model."""
    return replace(teach(), from_base=True)
