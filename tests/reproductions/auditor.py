"""Audits of a small world's models by the library's own path: saved, loaded as saved, measured, judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from remanent.auditing.audit import audit
from remanent.auditing.condition import Condition, parse_conditions
from remanent.auditing.evidence import Evidence
from remanent.auditing.hashes import keyed_hash
from remanent.auditing.judge import judge
from remanent.auditing.judgement import Judgement, Line
from remanent.auditing.plan import AuditData, AuditPlan, Loader

from .world import State, World

PRECISIONS = "full,int8,int4-row,int4-g32,nf4"


class Auditor:
    """Judges states of a world's model.

    Args:
        world: whose records are asked: forget, and the audit splits of retain and control.
        criteria: thresholds.
        folder: where models are saved and measurements kept, so that a reference is measured once.
    """

    def __init__(self, world: World, criteria: Mapping[str, float], folder: Path) -> None:
        self.world, self.criteria, self.folder = world, criteria, folder
        self.saved: list[tuple[State, Loader]] = []
        records = world.records
        self.data = AuditData(records["forget"], records["retain-audit"], records["control-audit"])

    def __call__(
        self,
        subjects: Mapping[str, State],
        at: str | Sequence[Condition] = PRECISIONS,
        data: AuditData | None = None,
    ) -> Judgement:
        return judge(self.evidence(subjects, at, data))

    def evidence(
        self,
        subjects: Mapping[str, State],
        at: str | Sequence[Condition] = PRECISIONS,
        data: AuditData | None = None,
    ) -> Evidence:
        """What the judge is shown."""
        conditions = parse_conditions(at) if isinstance(at, str) else at
        plan = AuditPlan(conditions, settings=self.criteria, batch_size=64, generate=0)
        loaders = {subject: self.loader(state) for subject, state in subjects.items()}
        hashed = partial(keyed_hash, b"only for these tests")
        return audit(loaders, data or self.data, plan, hashed, folder=self.folder / "measured")

    def loader(self, state: State) -> Loader:
        """What loads a state, which is saved when it is first asked for, with what stands round the model then."""
        for known, loader in self.saved:
            if known is state:
                return loader
        loader = self.world.saved(state, self.folder / f"model-{len(self.saved)}")
        self.saved.append((state, loader))
        return loader


def lines(judgement: Judgement, name: str, condition: str | None = None) -> list[Line]:
    """The lines of a name, at one condition or at all."""
    return [line for line in judgement.lines if line.name == name and condition in (None, line.condition)]


def verdicts(judgement: Judgement, name: str) -> dict[str, str]:
    """Condition -> verdict of the line of that name."""
    return {line.condition: line.verdict for line in lines(judgement, name)}
