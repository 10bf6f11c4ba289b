"""FIT: deletion requests one after another. Filter what repeats, choose the loss by Importance, Train few layers.

Of each request what repeats earlier ones is dropped. The norm of the loss's gradient at the input embeddings chooses
the forget loss: NPO with a divergence on retain where it is large, NPO where it is middling, random labels where it is
small. Only the attention and feed-forward weights of the layers that matter most for the request move. What it carries
from one request to the next: vectors of what was asked so far, importances, and the weights that moved as they were
before the first request, which are the reference.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from remanent.core.batch import Batch, Encoded, collate
from remanent.core.catalogue import System
from remanent.core.displacement import Restored
from remanent.core.episode import Episode
from remanent.core.layer_attribution import block_weights, layer_attribution
from remanent.core.method import Method, Objective, Recipe, Term
from remanent.core.modes import evaluating
from remanent.core.predict import Predict
from remanent.core.scores import answer_scores
from remanent.core.selection import Selection
from remanent.core.weights import Weights
from remanent.errors import InputError, UnsupportedError, did_you_mean
from remanent.unlearning.kl_min import kl_to_reference
from remanent.unlearning.redundancy import (
    OWN,
    chunks_of,
    encoder_vectors,
    likeness,
    own_centre,
    own_vectors,
    redundant,
    without,
)
from remanent.unlearning.salun import RandomLabels

SYSTEM = System(
    name="fit",
    title="FIT: many deletion requests, filtered, by importance, in the layers that matter",
    year=2026,
    arxiv="2601.21682",
    card="fit",
    family="unlearning",
    leaf="local/local-retraining",
    reproduction="tests/reproductions/test_fit.py",
    needs=("forget", "retain"),
    notes="The filter's vectors are the model's own states unless an encoder is named; chunks are tokens, not "
    "characters, and rare tokens do not save a chunk. A layer is left out rather than zeroed. The divergence is KL "
    "from the reference, where the code has a cross-entropy; random labels are trained in expectation.",
)
BY_IMPORTANCE = "by-importance"
ALGORITHMS = ("npo-kl", "npo", "random-labels")
_BATCH = 8


@dataclass(frozen=True)
class LiveNPO(Objective):
    """L_f = mean over records of -(2 / beta) log sigmoid(-beta D), as NPO's, against the method's own reference.

    D = log p(answer) - log p_reference(answer), summed over the tokens that are left of the answer; the reference is
    asked at each update, since what is left of a record is known only when its request begins.

    Args:
        beta: inverse temperature, above 0.

    Source: FIT, arXiv 2601.21682; NPO, arXiv 2404.05868, equation 3.
    """

    beta: float = 0.1

    terms: ClassVar[Mapping[str, Term]] = {"forget": Term("record", ("forget",))}

    def __post_init__(self) -> None:
        if not 0 < self.beta < math.inf:  # NaN is not
            raise InputError("beta", self.beta, "a finite number above 0")

    def at_reference(self, batches: Mapping[str, Batch], predict: Predict) -> dict[str, Tensor]:
        return {"forget": predict(batches["forget"]).nll} if "forget" in batches else {}

    def losses(self, batches: Mapping[str, Batch], predict: Predict) -> dict[str, Tensor]:
        if "forget" not in batches:
            return {}
        batch = batches["forget"]
        if batch.live is None:
            raise InputError("batches['forget'].live", None, "the reference model's NLL of each record")
        log_ratio = batch.live - predict(batch).nll
        return {"forget": -(2 / self.beta) * functional.logsigmoid(-self.beta * log_ratio).sum()}


@dataclass(frozen=True)
class LiveNPOWithKL(LiveNPO):
    """L_f as above; L_r = token mean of KL(p_reference || p) on retain, in float32.

    Source: FIT, arXiv 2601.21682, "NPO+KL".
    """

    terms: ClassVar[Mapping[str, Term]] = {**LiveNPO.terms, "retain": Term("token", ("retain",))}

    def at_reference(self, batches: Mapping[str, Batch], predict: Predict) -> dict[str, Tensor]:
        retained = {"retain": predict(batches["retain"]).distribution} if "retain" in batches else {}
        return {**super().at_reference(batches, predict), **retained}

    def losses(self, batches: Mapping[str, Batch], predict: Predict) -> dict[str, Tensor]:
        retained = {"retain": kl_to_reference(batches["retain"], predict, "retain")} if "retain" in batches else {}
        return {**super().losses(batches, predict), **retained}


@dataclass(frozen=True)
class RandomLabelsAlone(RandomLabels):
    """SalUn's random labels on the forget set, without a retain loss."""

    terms: ClassVar[Mapping[str, Term]] = {"forget": RandomLabels.terms["forget"]}


class Carried:
    """What FIT carries from one request to the next.

    Args:
        original: weights that some request moved, as they were before the first one: the reference. Costs a copy of
            them, and none of the others.
        memory: float16, (chunks, width): vectors of the chunks of all requests so far, but for what was dropped.
        centre: (width,): what the model's own states have in common; empty before the first request.
        importances: of the requests so far.
        decisions: of each request so far that was not dropped whole: its name, importance, algorithm, layers, and how
            many of its tokens were left.
    """

    def __init__(self) -> None:
        self.original: dict[str, Tensor] = {}
        self.memory, self.centre = torch.zeros(0, 0, dtype=torch.float16), torch.zeros(0)
        self.importances: list[float] = []
        self.decisions: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain data."""
        return {**vars(self), "original": dict(self.original)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        # In place, since the reference of a request that has begun looks there.
        self.original.clear()
        self.original.update(state["original"])
        self.memory, self.centre = state["memory"], state["centre"]
        self.importances, self.decisions = list(state["importances"]), [dict(item) for item in state["decisions"]]


@dataclass(frozen=True)
class FIT(Method):
    """A method for requests one after another, each of which it narrows, routes and confines when it begins.

    Args:
        similarity: tau, cosine from which a chunk is like one of an earlier request; from -1 to 1.
        epsilon: nats by which the request's loss may change without a chunk that is dropped.
        chunk: tokens of a chunk.
        filter: drop what repeats earlier requests.
        encoder: "own", or a folder or hub name of a sentence encoder.
        layers: how many layers train; all where the model has no more.
        high, low: importances from which NPO with KL, and NPO, are chosen.
        calibrate: take for them the upper and lower third of the importances so far, this request's among them.
        algorithm: "by-importance", or one of ALGORITHMS for every request.
        beta: NPO's inverse temperature.
        carried: what it carries along.
        pending: what this request adds to it once it is over; set by `begin`.
    """

    similarity: float = 0.9
    epsilon: float = 0.2
    chunk: int = 8
    filter: bool = True
    encoder: str = OWN
    layers: int = 8
    high: float = 12.0
    low: float = 6.0
    calibrate: bool = False
    algorithm: str = BY_IMPORTANCE
    beta: float = 0.1
    carried: Carried = field(default_factory=Carried, repr=False)
    pending: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, right, expected in (
            ("similarity", -1 <= self.similarity <= 1, "a cosine, from -1 to 1"),
            ("epsilon", self.epsilon >= 0, "a number of at least 0"),
            ("chunk", self.chunk >= 1, "at least 1 token"),
            ("layers", self.layers >= 1, "at least 1 layer"),
            ("low", 0 <= self.low <= self.high, f"a number from 0 to high, {self.high:g}"),
        ):
            if not right:
                raise InputError(name, getattr(self, name), expected)
        if self.algorithm not in (BY_IMPORTANCE, *ALGORITHMS):
            raise InputError("algorithm", self.algorithm, did_you_mean(self.algorithm, (BY_IMPORTANCE, *ALGORITHMS)))

    def begin(self, model: nn.Module, episode: Episode) -> Method | None:
        """The method for one request; None where nothing is left of it. Deterministic, so that a run can go on."""
        if "forget" not in episode.data:
            raise InputError(
                "data", ", ".join(episode.data) or "none", "records for 'forget', which a request is about"
            )
        given = list(episode.data["forget"])
        left, vectors, centre = self._left(model, episode) if self.filter else (given, None, None)
        if not left:
            return None
        weight = input_gradient_norm(model, left)
        chosen = self._route(weight)
        layers, names = self._target(model, left)
        selected = Weights.of(model).only(names)
        for name, tensor in selected.items():
            if name not in self.carried.original:
                self.carried.original[name] = tensor.detach().clone()
        objective = {
            "npo-kl": LiveNPOWithKL(self.beta),
            "npo": LiveNPO(self.beta),
            "random-labels": RandomLabelsAlone(),
        }[chosen]
        decision = {"request": episode.name, "importance": weight, "algorithm": chosen, "layers": layers}
        tokens = {"tokens": sum(item.scored for item in given), "left": sum(item.scored for item in left)}
        return replace(
            self,
            objective=objective,
            weights={name: value for name, value in self.weights.items() if name in objective.terms},
            select=Selection(tuple(names)),
            reference=Restored(self.carried.original),
            narrowed={"forget": left},
            pending={"vectors": vectors, "centre": centre, "decision": {**decision, **tokens}},
        )

    def passes_beforehand(self, sizes: Mapping[str, int]) -> int:
        """The request once, for its importance, where nothing of it repeats."""
        return sizes["forget"]

    def end(self, model: nn.Module, episode: Episode) -> None:
        """Remember the request."""
        carried = self.carried
        if self.pending["vectors"] is not None:
            new = self.pending["vectors"].half()
            carried.memory = torch.cat([carried.memory, new]) if len(carried.memory) else new
            carried.centre = self.pending["centre"]
        carried.importances.append(self.pending["decision"]["importance"])
        carried.decisions.append(dict(self.pending["decision"]))

    def state_dict(self) -> dict[str, Any]:
        return self.carried.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.carried.load_state_dict(state)

    def _left(self, model: nn.Module, episode: Episode) -> tuple[list[Encoded], Tensor, Tensor]:
        """What is left of a request; the vectors of its chunks that stay, of unit length; the centre of all vectors."""
        records, centre = list(episode.data["forget"]), self.carried.centre
        chunks = chunks_of(records, self.chunk)
        # All vectors come from one model, so that what was asked before can be told from what is asked now.
        with Restored(self.carried.original).at(model), evaluating(model):
            if self.encoder != OWN:
                vectors = encoder_vectors(model, records, chunks, self.encoder)
            else:
                vectors = own_vectors(model, records, chunks)
                if not len(centre) and "retain" in episode.data:
                    centre = own_centre(model, episode.data["retain"])
                vectors = vectors - centre if len(centre) else vectors
        vectors = functional.normalize(vectors, dim=-1)
        like = likeness(vectors, self.carried.memory)
        dropped = set(redundant(model, records, chunks, like, self.similarity, self.epsilon))
        left = [
            without(record, [item for item in dropped if item.record == place]) for place, record in enumerate(records)
        ]
        stay = [place for place, item in enumerate(chunks) if item not in dropped]
        return [record for record in left if record.scored], vectors[stay], centre

    def _route(self, weight: float) -> str:
        """The algorithm for a request of that importance."""
        if self.algorithm != BY_IMPORTANCE:
            return self.algorithm
        high, low = self.high, self.low
        if self.calibrate:
            seen = torch.tensor([*self.carried.importances, weight], dtype=torch.float64)
            low, high = torch.quantile(seen, torch.tensor([1 / 3, 2 / 3], dtype=torch.float64)).tolist()
        return ALGORITHMS[0] if weight >= high else ALGORITHMS[1] if weight >= low else ALGORITHMS[2]

    def _target(self, model: nn.Module, records: Sequence[Encoded]) -> tuple[list[int], list[str]]:
        """The layers that train, the most important first, and the names of their weights."""
        blocks = block_weights(model, self.select.of(Weights.of(model).trainable()))
        if not blocks:
            raise UnsupportedError("no weight of a decoder layer trains, so there is none to choose")
        found = sorted(blocks)
        if self.layers < len(blocks):
            found = self._attributed(model, records, found)[: self.layers]
        return found, [name for layer in found for name in blocks[layer]]

    def _attributed(self, model: nn.Module, records: Sequence[Encoded], layers: Sequence[int]) -> list[int]:
        """The layers in the order of what they matter for the records."""
        scores = layer_attribution(model, records, layers)
        return sorted(layers, key=lambda layer: (-scores[layer], layer))


def input_gradient_norm(model: nn.Module, records: Sequence[Encoded]) -> float:
    """IMP = || d L / d E ||, Frobenius, L the mean NLL over all scored tokens of the records, E the input embeddings of
    all of their tokens, in eval mode.

    Source: FIT, arXiv 2601.21682, importance. It falls with the number of tokens and with the embeddings' scale.
    """
    source = model.get_input_embeddings()  # type: ignore[operator]
    tokens, total = sum(record.scored for record in records), 0.0
    device = next(model.parameters()).device
    caught: list[Tensor] = []

    def cut(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        caught.append(output.detach().requires_grad_())
        return caught[-1]

    handle = source.register_forward_hook(cut)
    try:
        with evaluating(model):
            for first in range(0, len(records), _BATCH):
                indices = range(first, min(first + _BATCH, len(records)))
                with torch.enable_grad():
                    loss = -answer_scores(model, collate(records, indices, 0).to(device)).log_probs.sum() / tokens
                    (gradient,) = torch.autograd.grad(loss, [caught.pop()])
                total += float(gradient.float().square().sum(dtype=torch.float64))
    finally:
        handle.remove()
    return math.sqrt(total)


def method(
    similarity: float = 0.9,
    epsilon: float = 0.2,
    chunk: int = 8,
    filter: bool = True,
    encoder: str = OWN,
    layers: int = 8,
    high: float = 12.0,
    low: float = 6.0,
    calibrate: bool = False,
    algorithm: str = BY_IMPORTANCE,
    beta: float = 0.1,
    forget_weight: float = 1.0,
    retain_weight: float = 1.0,
) -> FIT:
    """FIT with the thresholds and training defaults of its code.

    Args:
        similarity: tau, cosine from which a chunk is like an earlier one.
        epsilon: nats by which the loss may change without a chunk that is dropped.
        chunk: tokens of a chunk.
        filter: drop what repeats earlier requests.
        encoder: "own", or a folder or hub name of a sentence encoder.
        layers: how many layers train.
        high: importance from which it is NPO with KL.
        low: importance from which it is NPO.
        calibrate: upper and lower third of the importances so far in place of high and low.
        algorithm: "by-importance", or "npo-kl", "npo" or "random-labels" for every request.
        beta: NPO's inverse temperature.
        forget_weight: of the forget loss.
        retain_weight: of the divergence on retain.
    """
    return FIT(
        LiveNPOWithKL(beta),
        weights={"forget": forget_weight, "retain": retain_weight},
        recipe=Recipe(learning_rate=3e-5, epochs=3.0, batch_size=8, schedule="cosine", weight_decay=0.1),
        similarity=similarity,
        epsilon=epsilon,
        chunk=chunk,
        filter=filter,
        encoder=encoder,
        layers=layers,
        high=high,
        low=low,
        calibrate=calibrate,
        algorithm=algorithm,
        beta=beta,
    )
