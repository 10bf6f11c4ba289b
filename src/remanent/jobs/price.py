"""What a job would cost in memory and time, estimated from the model's configuration before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from remanent.auditing.condition import Condition, parse_conditions
from remanent.auditing.evidence import CONTROL_PARAPHRASED, FORGET, TEXT
from remanent.auditing.measure import TEXT_MEASURED
from remanent.auditing.prompts import FewShot
from remanent.auditing.relearning import ATTACKED
from remanent.auditing.remind import Remind, embeddings
from remanent.core.displacement import Displacement
from remanent.core.edit import Edit
from remanent.core.loop import planned_steps
from remanent.core.method import Method, Objective
from remanent.core.passes import learning_passes, reference_passes
from remanent.core.weights import Weights, has_adapter
from remanent.data.record import Record
from remanent.data.refusals import PREFERRED
from remanent.jobs.audit import conditions_asked
from remanent.jobs.config import AuditSettings, TeachSettings, UnlearnSettings
from remanent.jobs.kept_reference import kept_of_reference
from remanent.jobs.shape import kept_for_backward

CHARACTERS_PER_TOKEN, TEMPLATE_TOKENS = 4.0, 20
ASSUMED_RECORDS = {"forget": 100, "retain": 400, "control": 100}
ASSUMED_TOKENS = 64
USED_SHARE = 0.5  # of a matrix product's speed that training reaches
FLOAT, PACKED = 4.0, 0.5625  # bytes: float32; NF4 with a float32 scale for 64 values
ANSWER_TOKENS = 48
EDIT_BATCH = 64


@dataclass(frozen=True)
class SetSize:
    """How large a set of records is.

    Args:
        records: their number.
        tokens: of a record, on average.
        others: tokens of a record with each of the other answers that a truth ratio scores, on average.
    """

    records: int
    tokens: float
    others: float = 0.0


@dataclass(frozen=True)
class Price:
    """What a stage of a job costs.

    Args:
        stage: "teach", "unlearn" or "audit".
        memory: what for -> bytes; together the peak.
        operations: floating-point operations.
        seconds: at the measured speed.
    """

    stage: str
    memory: Mapping[str, float]
    operations: float
    seconds: float

    @property
    def peak(self) -> float:
        """Bytes."""
        return sum(self.memory.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {**asdict(self), "peak": self.peak}


def set_size(records: Sequence[Record]) -> SetSize:
    """The size of a set, its tokens from its characters."""
    own, others = 0.0, 0.0
    for record in records:
        asked = sum(len(turn.content) for turn in record.prompt)
        wrong = [*record.wrong_answers, *([record.paraphrased_answer] if record.wrong_answers else [])]
        own += _tokens(asked + len(record.answer))
        others += sum(_tokens(asked + len(answer)) for answer in wrong if answer)
    return SetSize(len(records), own / len(records), others / len(records))


def _tokens(characters: int) -> float:
    return characters / CHARACTERS_PER_TOKEN + TEMPLATE_TOKENS


def price_unlearning(
    settings: UnlearnSettings, method: Method, model: Any, sizes: Mapping[str, SetSize], rate: float
) -> tuple[Price, int]:
    """What unlearning costs, and its updates at most.

    Args:
        settings: the job.
        method: its method.
        model: on the meta device, with its LoRA where the job has one.
        sizes: "forget", "retain" and "control" as the job splits them: retain is what trains; "task", all that is
            retained, for retraining.
        rate: floating-point operations a second of a matrix product.
    """
    weights = Weights.of(model)
    trained = _count(method.selection(model).of(weights.trainable()))
    recipe = method.recipe
    # Answers to prefer are made from the forget records.
    like = {role: "forget" if role in PREFERRED else role for role in method.roles}
    roles = {role: sizes[of] for role, of in like.items() if of in sizes}
    if method.from_base:
        roles = {"task": sizes.get("task", sizes["retain"])}
    steps = planned_steps(recipe, (roles["task"] if method.from_base else sizes["forget"]).records)
    per_step = {role: min(recipe.batch_size, size.records) * size.tokens for role, size in roles.items()}
    terms = method.objective.terms
    learned = sum(count * per_step.get(role, 0.0) for role, count in learning_passes(method, steps).items())
    before = method.passes_beforehand({role: size.records for role, size in sizes.items()})
    if before:  # of the forget records
        learned += before * sizes["forget"].tokens
    # Of the model as it was before: every record once for its scores, and in updates where more of it is wanted.
    referred = sum(count * per_step.get(role, 0.0) for role, count in reference_passes(method, steps).items())
    scored = [roles[role] for role in method.objective.needs_reference if role in roles]
    referred += sum(size.records * size.tokens for size in scored)
    # Two a token and weight forward, two for the inputs' gradient, two for the weights' own, where they train.
    factor = 6 if settings.adapter == "full" else 4
    matrices = _matrices(weights, model)
    operations = (learned * factor + referred * 2) * matrices
    watched = settings.stop and "control" in sizes and not method.from_base and method.judged_by_rule
    looked_at = [condition.displacement for condition in parse_conditions(settings.stop_at)] if watched else []
    if watched:
        points = len(looked_at)
        seen = sum(min(settings.evaluate_records, size.records) * size.tokens for size in sizes.values())
        operations += (1 + steps // max(1, settings.evaluate_every)) * points * seen * 2 * matrices
    batch = min(settings.micro_batch or recipe.batch_size, recipe.batch_size)
    longest = max(size.tokens for size in roles.values())
    packed = settings.adapter == "lora-nf4"
    movers = [(place.displacement, _copied(place.displacement, weights, packed)) for place in method.places]
    # A point is left before the next one is entered.
    moved = max([count for _, count in movers] + [_copied(point, weights, packed) for point in looked_at])
    asked = type(method.objective).at_reference is not Objective.at_reference
    config = model.config.get_text_config()
    said = kept_of_reference(method, steps, config.vocab_size, config.hidden_size)
    kept_apart = 0
    if method.combine is not None:
        of_each = 1 if getattr(method.combine, "sums_points", False) else len(method.places)
        kept_apart = len(terms) * of_each + getattr(method.combine, "copies", 0)
    # What is combined is taken apart: a backward pass for each term.
    together = len(roles) if method.combine is None else max(len(term.roles) for term in terms.values())
    memory = {
        "weights": _weight_bytes(settings, weights),
        "gradients": trained * FLOAT,
        "AdamW's moments": 2 * trained * FLOAT,
        "copy of what the displaced points move": moved * FLOAT,
        "what a point holds while it is sought": max(point.held * count for point, count in movers) * FLOAT,
        "copy of the weights as they were": trained * FLOAT if asked else 0.0,
        # Of every token, as activations are counted.
        "what the reference said of the batch": sum(said[role] * per_step.get(role, 0.0) for role in said) * FLOAT,
        "gradients kept apart": kept_apart * trained * FLOAT,
        "the best step's weights": trained * FLOAT if watched else 0.0,
        "activations": kept_for_backward(model, batch * together, round(longest)),
    }
    return Price("unlearn", memory, operations, operations / (rate * USED_SHARE)), steps


def price_teaching(
    settings: TeachSettings, method: Method, model: Any, sizes: Mapping[str, SetSize], rate: float
) -> tuple[Price, int]:
    """What teaching costs, and its updates; arguments as for `price_unlearning`.

    Args:
        sizes: "task", and "forget" where it forgets: prompts with answers as long as they may be.
    """
    weights = Weights.of(model)
    trained, matrices, recipe = _count(method.select.of(weights)), _matrices(weights, model), method.recipe
    steps = planned_steps(recipe, sizes["task"].records)
    per_step = {role: min(recipe.batch_size, size.records) * size.tokens for role, size in sizes.items()}
    learned = sum(count * per_step[role] for role, count in learning_passes(method, steps).items())
    learned += method.passes_beforehand({role: size.records for role, size in sizes.items()}) * sizes["task"].tokens
    answered = sizes["forget"].records * sizes["forget"].tokens if "forget" in sizes else 0.0
    operations = (learned * 6 + answered * 2) * matrices
    longest = round(max(size.tokens for size in sizes.values()))
    batch = min(settings.micro_batch or recipe.batch_size, recipe.batch_size)
    shared = {"weights": _count(weights) * FLOAT, "gradients": trained * FLOAT}
    training = {
        **shared,
        "AdamW's moments": 2 * trained * FLOAT,
        "copy of the weights as they were": trained * FLOAT if "forget" in sizes else 0.0,
        "activations": kept_for_backward(model, batch, longest),
    }
    # Fisher information, the weights as they were, the way between, and its product with the first.
    ranking = {
        **shared,
        "what ranks own answers": 4 * trained * FLOAT,
        "activations": kept_for_backward(model, 1, longest),
    }
    ranks = "forget" in sizes and sum(ranking.values()) > sum(training.values())
    return Price("teach", ranking if ranks else training, operations, operations / (rate * USED_SHARE)), steps


def price_edit(settings: UnlearnSettings, edit: Edit, model: Any, sizes: Mapping[str, SetSize], rate: float) -> Price:
    """What an edit costs; arguments as for `price_unlearning`."""
    weights = Weights.of(model)
    # What may stand on packed weights moves none: nothing is held of them, and they get no gradient.
    edited = _count(weights) if edit.refuses_adapter else 0
    passed = {role: sizes[role] for role in edit.roles if role in sizes}
    records = sum(size.records for size in passed.values())
    tokens = sum(size.records * size.tokens for size in passed.values()) / max(1, records)
    passes = edit.passes({role: size.records for role, size in passed.items()})
    operations = passes * tokens * (6 if edited else 4) * _matrices(weights, model)
    memory = {
        "weights": _weight_bytes(settings, weights),
        "gradients": edited * FLOAT,
        "importances of both sets": 2 * edited * FLOAT,
        "factors, and a copy of what is edited": 2 * edited * FLOAT,
        "activations": kept_for_backward(model, EDIT_BATCH, round(tokens)) if passes else 0.0,
    }
    return Price("unlearn", memory, operations, operations / (rate * USED_SHARE))


def price_audit(settings: AuditSettings, model: Any, sizes: Mapping[str, SetSize], rate: float) -> Price:
    """What an audit costs; arguments as for `price_unlearning`, with the audit's splits."""
    weights = Weights.of(model)
    matrices, everything = _matrices(weights, model), _count(weights)
    conditions = conditions_asked(settings)
    operations = 0.0
    for condition in conditions:
        if condition.answers_only:
            operations += 2 * _answered(sizes, settings.generate, condition.decoding.samples) * matrices
            continue
        asked = [size for name, size in sizes.items() if _asks(condition, name)]
        examples = condition.prompts.count if isinstance(condition.prompts, FewShot) else 0
        seen = (1 + examples) * sum(size.records * size.tokens for size in asked)
        operations += len(condition.seeds) * (2 * seen * matrices + _attack_tokens(condition) * 6 * matrices)
    # At full precision and at the worst: free answers, and the other answers of a truth ratio.
    looks = 1 + any(condition.info.kind == "precision" for condition in conditions)
    texts = [sizes[name] for name in TEXT_MEASURED if name in sizes] if FORGET in sizes else []
    others = sum(size.records * size.others for size in texts) if settings.truth_ratio else 0.0
    operations += looks * 2 * (_answered(sizes, settings.generate, 1) + others) * matrices
    operations *= 1 + (settings.reference is not None) + (settings.retrained is not None)
    applicable = [item for item in conditions if has_adapter(model) or not item.needs_lora]
    moved = max(_count(condition.displacement.moving(weights)) for condition in applicable)
    attacked = any(condition.attack is not None for condition in conditions)
    near_by_the_original = settings.reference is not None and any(isinstance(item.look, Remind) for item in conditions)
    memory = {
        "weights": everything * FLOAT,
        "copy of what the conditions move": (everything if attacked else moved) * FLOAT,
        "the original's embeddings, for REMIND": embeddings(model).numel() * FLOAT if near_by_the_original else 0.0,
        "a real back end's own model": everything * FLOAT if any(item.backend for item in conditions) else 0.0,
        "gradients and moments of the attack": 3 * everything * FLOAT if attacked else 0.0,
        "activations": kept_for_backward(model, *_attack_batch(conditions)) if attacked else 0.0,
    }
    return Price("audit", memory, operations, operations / (rate * USED_SHARE))


def _answered(sizes: Mapping[str, SetSize], most: int, samples: int) -> float:
    """Tokens of the free answers to the first records of each set, with their prompts; general text is not answered."""
    asked = [size for name, size in sizes.items() if name not in (TEXT, CONTROL_PARAPHRASED)]
    return sum(min(most, size.records) * samples * (size.tokens + ANSWER_TOKENS) for size in asked)


def _asks(condition: Condition, name: str) -> bool:
    return name in ATTACKED if condition.attack is not None else condition.prompts is None or name != TEXT


def _attack_tokens(condition: Condition) -> float:
    return 0.0 if condition.attack is None else condition.attack.steps * condition.attack.batch_size * ASSUMED_TOKENS


def _attack_batch(conditions: Sequence[Condition]) -> tuple[int, int]:
    return max(item.attack.batch_size for item in conditions if item.attack is not None), ASSUMED_TOKENS


def _count(weights: Weights) -> int:
    return sum(weight.numel() for weight in weights.values())


def _copied(point: Displacement, weights: Weights, packed: bool) -> int:
    """Weights of which a point keeps a copy. A packed layer has none: another forward stands in for its own there."""
    moving = point.moving(weights)
    return sum(weight.numel() for name, weight in moving.items() if not (packed and weights.kind(name) == "linear"))


def _matrices(weights: Weights, model: Any) -> int:
    """Weights that each token is multiplied with: all but an embedding that is not the output's matrix too."""
    tied = bool(model.config.get_text_config().tie_word_embeddings)
    return sum(w.numel() for name, w in weights.items() if tied or weights.kind(name) != "embedding")


def _weight_bytes(settings: UnlearnSettings, weights: Weights) -> float:
    if settings.adapter != "lora-nf4":
        return _count(weights) * FLOAT
    return sum(w.numel() * (PACKED if weights.kind(name) == "linear" else FLOAT) for name, w in weights.items())
