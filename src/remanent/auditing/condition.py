"""What a model may meet after it was unlearned: the conditions at which it is audited."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from remanent.auditing.anamnesis import Anamnesis
from remanent.auditing.backends.base import Backend
from remanent.auditing.backends.named import BACKENDS, FILE, backend_of
from remanent.auditing.blur import Combined, Keyword, Nearest, RelearnedLikeness, Together
from remanent.auditing.ensembles import ENSEMBLES, THOROUGH
from remanent.auditing.evidence import FORGET, RETAIN, ConditionInfo
from remanent.auditing.exposure import Exposure
from remanent.auditing.extraction_likelihood import ExtractionLikelihood
from remanent.auditing.fluency import Fluency
from remanent.auditing.gradient_norm import GradientNorm
from remanent.auditing.lm_eval import PREFIX, Benchmark
from remanent.auditing.look import Look
from remanent.auditing.muse import Muse
from remanent.auditing.probes import Probes
from remanent.auditing.prompts import FewShot, Prompts
from remanent.auditing.reference_distance import PREFIX as DIVERGENCE
from remanent.auditing.reference_distance import ReferenceDistance
from remanent.auditing.relearning import RelearningAttack, Source
from remanent.auditing.remind import NEIGHBOURS, Remind
from remanent.auditing.requirement import without_place
from remanent.auditing.tofu import Utility
from remanent.core.decoding import SAMPLES, Decoding, Greedy, Sampled
from remanent.core.displacement import AdapterOff, Displacement, Here, InterventionOff, Noise, Pruning, Rounding
from remanent.core.quantization import QuantizationFormat
from remanent.errors import InputError

ATTACK_SEEDS = (0, 1, 2)
_LOOKS: dict[str, tuple[Look, str]] = {
    "utility": (Utility(), "TOFU's three numbers and their harmonic mean, of the retain set."),
    "tofu": (Utility(tofu=True), "TOFU's model utility: retain set, real authors and world facts."),
    "gradient-norm": (GradientNorm(), "The gradient of each record's loss, by its norm."),
    "exposure": (Exposure(), "Each answer's rank among its wrong ones."),
    "extraction": (ExtractionLikelihood(), "Texts continued from several of their beginnings."),
    "fluency": (Fluency(), "True answers' perplexity; entropy and repetition of the model's own."),
    "anamnesis": (Anamnesis(), "The forget set, and for itself the control, relearned and asked after some updates."),
    "zrf": (ReferenceDistance(), "Predictions against those of the same form with fresh random weights."),
    "probe": (
        Probes(),
        "A linear probe of hidden states tells forgotten from unseen groups that it never saw.",
    ),
    "probe-battery": (Probes(battery=True), "The same by five probes, of which two are networks."),
    "muse": (Muse(), "MUSE's memorization: texts continued to their ends, questions answered after solved ones."),
}
ORDERS: tuple[Literal["forget", "retain"], ...] = ("forget", "retain")
_RELEARNED: dict[Source, str] = {
    "overlap": "half of the forgotten groups, the other half being asked",
    "unrelated": "unrelated text",
    "hi": "half of each forgotten group's records, the other half being asked",
    "mid": "the retained records that are most like the forgotten ones",
    "lo": "unrelated text without a forgotten answer",
}
_RELEARNING = re.compile(r"relearning(?:-(unrelated|overlap))?(?:-(\d+))?")
_PRUNING = re.compile(r"prune-(\d*\.?\d+)(-global)?")
_ADAPTER = "-adapter"
_FEW_SHOT = re.compile(r"few-shot-(\d+)")
_SAMPLED = re.compile(r"sampled-(\d*\.?\d+)(?:-(\d+))?")
_REMIND = re.compile(r"remind(-random)?(?:-(\d+))?")
_BLUR = re.compile(r"blur(-nearest)?(?:-(forget|retain)-first)?")
_KEYWORD = "blur-keyword"
_BLUR_RELEARNING = re.compile(r"blur-relearning(?:-(hi|mid|lo))?(?:-(\d+))?")
_EXTRACTION = re.compile(r"extraction-(\d+)")
_ANAMNESIS = re.compile(r"anamnesis-(\d*\.?\d+(?:e-\d+)?)")
_NOISE = re.compile(r"noise-(\d*\.?\d+)")


@dataclass(frozen=True)
class Condition:
    """One condition: a point near the weights, or a real quantizer; how it is asked; how answers are drawn.

    Args:
        info: name, kind and description.
        displacement: the point; of an attack, where the model goes after it. `Here` where there is a back end.
        attack: fine-tuning that comes first; None where there is none.
        seeds: of a random attack; (None,) where the condition is deterministic.
        backend: a real quantizer, which loads the saved model; None measures the loaded weights at `displacement`.
        prompts: another way of asking; None asks the records as they are.
        decoding: how answers are drawn, where answers are generated.
        look: what is measured there in place of the records' scores, or beside them; None scores them alone.
        optional: brought by an ensemble and not asked for by name: left out, with a note, where it does not apply.
    """

    info: ConditionInfo
    displacement: Displacement = field(default_factory=Here)
    attack: RelearningAttack | None = None
    seeds: Sequence[int | None] = (None,)
    backend: Backend | None = None
    prompts: Prompts | None = None
    decoding: Decoding = field(default_factory=Greedy)
    look: Look | None = None
    optional: bool = False

    @property
    def needs_lora(self) -> bool:
        """Whether it means something only on a model with a LoRA."""
        point = self.displacement
        return isinstance(point, AdapterOff) or (isinstance(point, Rounding) and point.view == "adapter")

    @property
    def needs_intervention(self) -> bool:
        """Whether it means something only on a model that wears an intervention."""
        return isinstance(self.displacement, InterventionOff)

    @property
    def answers_only(self) -> bool:
        """Whether only generated answers depend on it: teacher-forced scores are those of the same point, greedy."""
        return not isinstance(self.decoding, Greedy)

    @property
    def texts_only(self) -> bool:
        """Whether the records' scores are not measured there."""
        return self.answers_only or (self.look is not None and self.look.alone)

    @property
    def plain(self) -> bool:
        """Whether it is a point near the weights or a back end, the records being asked as they are."""
        return not self.answers_only and self.attack is None and self.prompts is None and self.look is None

    @property
    def rank(self) -> tuple[int, int, bool]:
        """Its place in the order of measuring, cheap to expensive: its kind; of attacks the steps, then whether the
        model is moved or asked in another way afterwards."""
        if self.attack is not None:
            return 9, self.attack.steps, not isinstance(self.displacement, Here) or self.prompts is not None
        return self._kind, 0, False

    @property
    def _kind(self) -> int:
        point = self.displacement
        if self.texts_only:
            return 8
        if self.backend is not None:
            return 7
        if self.prompts is not None:
            return 6
        if isinstance(point, Noise):
            return 5
        if isinstance(point, Pruning):
            return 4
        if isinstance(point, AdapterOff | InterventionOff):
            return 3
        if isinstance(point, Rounding):
            return 1 if point.quantization.granularity == "element" else 2
        return 0


def parse_conditions(
    text: str, seeds: Sequence[int] = ATTACK_SEEDS, learning_rate: float = RelearningAttack.learning_rate
) -> list[Condition]:
    """Conditions from their names, separated by commas, cheap to expensive; full precision always comes first.

    An ensemble: "standard" or "thorough" (see `ensembles`), whose members are left out, with a note in the evidence,
    where they do not apply. Or "full"; a format of `QuantizationFormat` ("bf16", "int8", "int4-row", "nf4" ...);
    "int4-row-adapter" (the same on a LoRA's factors alone); "prune-0.3", "prune-0.3-global"; "noise-0.01" (of each
    tensor's root mean square); "adapter-off"; "intervention-off"; a real back end of `backends.named` ("bnb-nf4",
    "gguf-q4_0" ...), or
    "gguf:PATH", a file made from this model; "relearning" (on unrelated text and on a part of
    the forget set), "relearning-unrelated-100", "relearning-overlap"; "few-shot-3" (after so many solved examples of
    the retain set); "sampled-0.8" (8 answers drawn at that temperature, of which the best counts), "sampled-0.8-16";
    "remind" (the loss at 48 neighbours of each text), "remind-96", "remind-random" (its control); "blur" (forgotten
    beside retained questions, "blur-forget-first" and "blur-retain-first"), "blur-nearest" (the same, each beside the
    question that is most like it), "blur-keyword" (a forgotten question's own words before a retained one),
    "blur-relearning" (on what has much, some and little in common with the forget set: "blur-relearning-hi", "-mid",
    "-lo", each with steps or without);
    "utility" and "tofu" (TOFU's model utility, of the retain set and of its real authors and world facts too), "muse";
    "gradient-norm"; "exposure", "extraction" or "extraction-10" (runs of so many tokens), "fluency", "anamnesis" or
    "anamnesis-0.001" (learning rate), "zrf", "divergence:FOLDER" (from the model in that folder);
    "probe", "probe-battery" (hidden states of forgotten and unseen groups);
    "lm-eval:TASK", a task of lm-evaluation-harness or the path of its YAML file ("lm-eval:TASK:forget" where it asks
    what is to be forgotten, as WMDP's do anyhow; "lm-eval:TASK:retain").
    These may go on with a '+': "relearning-overlap+int4-row" (relearned, then rounded),
    "sampled-0.8+few-shot-3+int4-row", "remind+int4-row".

    Args:
        text: the names.
        seeds: over which random attacks are repeated.
        learning_rate: of attacks that relearn; finite and above 0.

    Raises:
        InputError: for a name that is not known, for a back end asked for by name that is not installed, and for a
            learning rate that is none.
    """
    found: dict[str, Condition] = {"full": _deterministic("full", "full", "The weights as saved.", Here())}
    names = [name for part in text.split(",") if (name := part.strip())]
    how = RelearningAttack("unrelated", learning_rate=learning_rate)
    for name in names:
        if name not in ENSEMBLES:
            for condition in _parse(name, seeds, how):
                if condition.backend is not None:
                    condition.backend.check()
                same = found.get(condition.info.name)
                named = name.startswith(FILE) or (same is not None and same.look != condition.look)
                if same is not None and named:
                    raise InputError("at", name, "files or folders of different names")
                found.setdefault(condition.info.name, condition)
    for name in names:
        for member in ENSEMBLES.get(name, ()):
            for condition in _parse(member, seeds, how):
                found.setdefault(condition.info.name, replace(condition, optional=True))
    places = {name: place for place, name in enumerate(THOROUGH)}
    return sorted(found.values(), key=lambda item: (*item.rank, places.get(item.info.name, len(places))))


def _parse(name: str, seeds: Sequence[int], how: RelearningAttack) -> list[Condition]:
    backend = backend_of(name)
    if backend is not None:
        return [Condition(ConditionInfo(backend.name, "precision", backend.description), backend=backend)]
    first, _, second = name.partition("+")
    relearning, graded = _RELEARNING.fullmatch(first), _BLUR_RELEARNING.fullmatch(first)
    if relearning or graded:
        every: tuple[Source, ...] = ("unrelated", "overlap") if relearning else ("hi", "mid", "lo")
        relearning = relearning or graded
        assert relearning is not None
        kinds = [kind for kind in every if relearning[1] in (None, kind)]
        steps = int(relearning[2]) if relearning[2] else how.steps
        if steps < 1:
            raise InputError("at", name, "at least 1 step of relearning")
        after = _parse(second, seeds, how)[0] if second else None
        if after is not None and after.backend is not None:
            expected = "a simulated point after the '+', such as int4-row or nf4: a real back end such as "
            expected += f"{after.info.name} loads the saved files, not the weights that were relearned in memory"
            raise InputError("at", name, expected)
        if after is not None and not replace(after, prompts=None).plain:
            raise InputError("at", name, "a point near the weights after the '+', such as int4-row")
        return [_relearning(replace(how, source=kind, steps=steps), after, seeds) for kind in kinds]
    few_shot, sampled, remind = (pattern.fullmatch(first) for pattern in (_FEW_SHOT, _SAMPLED, _REMIND))
    if few_shot:
        return [_few_shot(name, int(few_shot[1]), _parse(second or "full", seeds, how)[0])]
    if sampled:
        samples = int(sampled[2]) if sampled[2] else SAMPLES
        return [_sampled(name, float(sampled[1]), samples, _parse(second or "full", seeds, how)[0])]
    blur = _BLUR.fullmatch(first)
    if blur:
        after = _parse(second or "full", seeds, how)[0]
        pairs = Nearest if blur[1] else Combined
        return [_blur(pairs(order), after) for order in ORDERS if blur[2] in (None, order)]
    if first == _KEYWORD:
        return [_blur(Keyword(), _parse(second or "full", seeds, how)[0])]
    if remind:
        look = Remind(int(remind[2]) if remind[2] else NEIGHBOURS, random=remind[1] is not None)
        return [_remind(name, look, _parse(second or "full", seeds, how)[0])]
    if first.startswith(PREFIX):
        asked = Benchmark.parse(first.removeprefix(PREFIX))
        if not asked.task:
            raise InputError("at", name, f"a task of lm-eval, as in {PREFIX}wmdp_bio")
        meant = {FORGET: "forgotten", RETAIN: "kept"}[asked.records]
        text = f"The task {Path(asked.task).name} of lm-evaluation-harness, on what is to be {meant}."
        return [_looked(name, asked, text, _parse(second or "full", seeds, how)[0])]
    found = _look_of(first)
    if found is not None:
        return [_looked(name, *found, _parse(second or "full", seeds, how)[0])]
    if second:
        expected = "'+' after relearning, few-shot, sampled and looks only, as in 'relearning-overlap+int4-row'"
        raise InputError("at", name, expected)
    noise = _NOISE.fullmatch(name)
    if noise:
        sigma = float(noise[1])
        if sigma == 0:
            raise InputError("at", name, "noise above 0")
        text = f"Seeded Gaussian noise of {sigma:g} times each tensor's root mean square."
        return [_deterministic(name, "attack", text, Noise(sigma))]
    if name == "adapter-off":
        return [_deterministic(name, "attack", "The adapter taken off again.", AdapterOff())]
    if name == "intervention-off":
        text = "Interventions round the model taken off: what whoever has the weights has."
        return [_deterministic(name, "attack", text, InterventionOff())]
    if name in ("full", "here"):
        return [_deterministic("full", "full", "The weights as saved.", Here())]
    pruning = _PRUNING.fullmatch(name)
    if pruning:
        share = float(pruning[1])
        if not 0 < share < 1:
            raise InputError("at", name, "a share to prune between 0 and 1")
        whole = pruning[2] is not None
        where = "all linear layers together" if whole else "each linear layer"
        text = f"The share {share:g} of the weights of {where} that are smallest set to 0."
        return [_deterministic(name, "attack", text, Pruning(share, "global" if whole else "layer"))]
    try:
        format = QuantizationFormat.parse(name.removesuffix(_ADAPTER))
        if name.endswith(_ADAPTER) and format.granularity == "element":
            raise InputError("format", name, "a format with a scale, such as int4-row-adapter")
    except InputError as error:
        expected = f"{', '.join(ENSEMBLES)}, full, relearning, few-shot-<examples>, sampled-<temperature>, "
        expected += f"remind, blur, blur-nearest, blur-keyword, blur-relearning, {', '.join(_LOOKS)}, lm-eval:<task>, "
        expected += f"{DIVERGENCE}<folder>, "
        expected += "noise-<sigma>, prune-<share>, adapter-off, intervention-off, a back end"
        expected += f" ({', '.join(BACKENDS)}, {FILE}<path>), or {error.expected}"
        raise InputError("at", name, expected) from None
    if name.endswith(_ADAPTER):
        text = f"A LoRA's two factors rounded to {format} each, the base left as it is."
        return [_deterministic(name, "precision", text, Rounding(format, view="adapter"))]
    text = f"Every weight cast to {name}." if format.granularity == "element" else f"Linear layers rounded to {name}."
    return [_deterministic(name, "precision", text, Rounding(format))]


def _relearning(attack: RelearningAttack, after: Condition | None, seeds: Sequence[int]) -> Condition:
    kind, steps = attack.source, attack.steps
    text = f"Fine-tuned for {steps} steps (AdamW, {attack.learning_rate:g}) on {_RELEARNED[kind]}"
    text += f", then: {after.info.description}" if after else "."
    name = f"{'blur-' if attack.graded else ''}relearning-{kind}-{steps}" + (f"+{after.info.name}" if after else "")
    info = ConditionInfo(name, "attack", text, random=True)
    look = RelearnedLikeness() if attack.graded else None
    if after is None:
        return Condition(info, Here(), attack, tuple(seeds), look=look)
    return Condition(info, after.displacement, attack, tuple(seeds), prompts=after.prompts, look=look)


def _blur(prompts: Combined | Keyword, after: Condition) -> Condition:
    name = str(prompts) + ("" if after.info.kind == "full" else f"+{after.info.name}")
    if not after.plain:
        raise InputError("at", name, "a point near the weights after the '+', such as int4-row")
    if isinstance(prompts, Keyword):
        text = "A forgotten question's own words before a retained one, and the other way round."
    else:
        kinds = ("The forgotten", "a retained") if prompts.first == "forget" else ("A retained", "the forgotten")
        which = ", the most alike in words," if isinstance(prompts, Nearest) else ""
        text = f"{kinds[0]} question and {kinds[1]} one{which} in one prompt."
    info = ConditionInfo(name, "attack", text + _before(after))
    return replace(after, info=info, prompts=prompts, look=Together())


def _few_shot(name: str, count: int, after: Condition) -> Condition:
    if count < 1 or not after.plain:
        raise InputError("at", name, "at least 1 example, and a point near the weights after the '+', such as int4-row")
    text = f"Asked after {count} solved example{'s' if count > 1 else ''} from the retain set.{_before(after)}"
    return replace(after, info=ConditionInfo(name, "attack", text), prompts=FewShot(count))


def _sampled(name: str, temperature: float, samples: int, after: Condition) -> Condition:
    if temperature == 0 or samples < 1 or not replace(after, prompts=None).plain:
        expected = "a temperature above 0, at least 1 sample, and after the '+' few-shot or a point near the weights"
        raise InputError("at", name, expected)
    text = f"{samples} answers drawn at temperature {temperature:g}, of which the best counts.{_before(after)}"
    return replace(after, info=ConditionInfo(name, "attack", text), decoding=Sampled(temperature, samples))


def _remind(name: str, look: Remind, after: Condition) -> Condition:
    if look.neighbours < 1 or not after.plain:
        raise InputError(
            "at", name, "at least 1 neighbour, and a point near the weights after the '+', such as int4-row"
        )
    other = "any others" if look.random else "tokens of near embeddings"
    text = f"Each text asked at {look.neighbours} neighbours, some tokens replaced by {other}.{_before(after)}"
    return replace(after, info=ConditionInfo(name, "attack", text), look=look)


def _look_of(name: str) -> tuple[Look, str] | None:
    """A look by its name, with what it measures in words; None for another name."""
    extraction, anamnesis = _EXTRACTION.fullmatch(name), _ANAMNESIS.fullmatch(name)
    if extraction:
        return ExtractionLikelihood(int(extraction[1])), _LOOKS["extraction"][1]
    if anamnesis:
        return Anamnesis(float(anamnesis[1])), _LOOKS["anamnesis"][1]
    if name.startswith(DIVERGENCE):
        text = "Predictions against those of another model, beside this one in memory."
        return ReferenceDistance(name.removeprefix(DIVERGENCE)), text
    return _LOOKS.get(name)


def _looked(name: str, look: Look, text: str, after: Condition) -> Condition:
    if not after.plain or (isinstance(look, Anamnesis) and after.backend is not None):
        raise InputError("at", name, "a point near the weights after the '+', such as int4-row")
    return replace(after, info=ConditionInfo(without_place(name), "other", f"{text}{_before(after)}"), look=look)


def _before(after: Condition) -> str:
    return "" if after.info.kind == "full" else f" Before: {after.info.description}"


def _deterministic(name: str, kind: str, description: str, displacement: Displacement) -> Condition:
    return Condition(ConditionInfo(name, kind, description), displacement)
