"""Influence unlearning: one static step theta + (H + damping I)^-1 g, instead of a training.

g is the gradient of the forget answers' mean NLL, H the Gauss-Newton matrix of the retain answers' mean NLL. The system
is solved by conjugate gradients in their Lanczos form: one Krylov space of H and g serves every damping, and the
damping is the smallest that lets the forget loss rise while the retain loss stays under its bound.

Source: influence functions (Koh and Liang 2017, arXiv:1703.04730); IU as the baseline of SOUL (arXiv:2404.18239,
section 4); Lanczos and conjugate gradients: Golub and Van Loan, "Matrix Computations", 4th ed., section 11.3.
Differs from SOUL's baseline, which inverts an empirical Fisher by WoodFisher's recurrence (arXiv:2004.14340): here the
matrix is the Gauss-Newton one, its products are exact, and the step length is found, not tuned.
Memory: `iterations` + 4 float32 copies of the weights that may move.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from soul_core.data.encoding import Example
from soul_core.data.packing import pack
from soul_core.errors import TrainingDivergedError
from soul_core.events import Listener, Phase, raise_if_stop_requested
from soul_core.models.loading import LoadedModel
from soul_core.models.scoring import score
from soul_core.spec import JobSpec
from soul_core.spec.optimizers import Influence
from soul_core.training.checkpoint import load_newest_checkpoint, save_checkpoint
from soul_core.training.history import TrainingHistory
from soul_core.training.micro_batching import BatchItem, BatchUnit, MicroBatcher
from soul_core.training.saliency import select_units
from soul_core.training.second_order import gauss_newton_vector_product
from soul_core.training.step import compute_nll_gradients, count_totals, get_trainable_parameters

Tensors = list[torch.Tensor]

#: Dampings tried, as multiples of the largest curvature found: from nearly none to a step along the gradient.
MIN_DAMPING, MAX_DAMPING, DAMPING_FACTOR = 1e-4, 1e6, 10**0.5


def take_influence_step(
    loaded: LoadedModel,
    spec: JobSpec,
    *,
    forget: Sequence[Example],
    retain: Sequence[Example],
    folder: Path,
    listener: Listener,
    phase: Phase,
) -> TrainingHistory:
    """Move the trainable weights by one step. Raises Diverged when no damping keeps the bound; they are whole then.

    An interruption before the step begins it anew, to the same bits; a step once taken is kept in `folder`.
    """
    optimizer = spec.optimizer
    assert isinstance(optimizer, Influence)
    record = TrainingHistory(loaded, listener, phase, num_steps=1)
    parameters = get_trainable_parameters(loaded)
    if checkpoint := load_newest_checkpoint(folder, loaded.device):
        _set(parameters, checkpoint.states["weights"]["parameters"])
        record.load_state_dict(checkpoint.states["history"])
        record.record_resume(checkpoint.step)
        return record
    batcher = MicroBatcher(spec.training.micro_batch_tokens, listener)
    of_forget = select_units("forget", forget, len(forget), spec.seed)
    of_retain = select_units("retain", retain, optimizer.max_examples, spec.seed + 1)
    gradient, _ = compute_nll_gradients(loaded, of_forget, batcher)
    record.count_tokens(of_forget)

    def product(vector: Tensors) -> Tensors:
        raise_if_stop_requested(listener)
        record.count_tokens(of_retain, passes=2.0)
        return gauss_newton_vector_product(loaded, of_retain, batcher, vector)

    space = build_krylov_space(product, gradient, optimizer.iterations, on_matvec=_teller(listener, phase, optimizer))
    checked = select_units("forget", forget, optimizer.max_examples, spec.seed)
    _search(loaded, optimizer, space, (checked, of_retain), batcher, record, listener)
    save_checkpoint(folder, 1, {"weights": {"parameters": parameters}, "history": record.state_dict()})
    return record


@dataclass(frozen=True)
class KrylovSpace:
    """An orthonormal basis of span(g, H g, H^2 g, ...), and H in it, which is tridiagonal."""

    basis: list[Tensors]
    tridiagonal_KK: torch.Tensor  # float64
    start_norm: float  # of g

    def solve(self, damping: float) -> Tensors:
        """Return the conjugate-gradient solution of (H + damping I) x = g after as many iterations as the basis has."""
        size = len(self.basis)
        right_K = torch.zeros(size, dtype=torch.float64)
        right_K[0] = self.start_norm
        shifted_KK = self.tridiagonal_KK + damping * torch.eye(size, dtype=torch.float64)
        weights = torch.linalg.solve(shifted_KK, right_K).tolist()
        solution = [torch.zeros_like(one) for one in self.basis[0]]
        for weight, vector in zip(weights, self.basis, strict=True):
            for whole, part in zip(solution, vector, strict=True):
                whole.add_(part, alpha=weight)
        return solution

    @property
    def largest_eigenvalue(self) -> float:
        """The largest curvature found: the largest eigenvalue of H in this space."""
        return float(torch.linalg.eigvalsh(self.tridiagonal_KK)[-1])


def build_krylov_space(
    matvec: Callable[[Tensors], Tensors],
    start_vector: Tensors,
    max_iterations: int,
    *,
    on_matvec: Callable[[int], None] = lambda _: None,
) -> KrylovSpace:
    """Build the space by Lanczos' recurrence with full reorthogonalisation; it ends early when H adds nothing new."""
    norm = _norm(start_vector)
    basis = [[one.float() / norm for one in start_vector]] if norm > 0 else []
    diagonal: list[float] = []
    beside: list[float] = []
    while len(diagonal) < min(max_iterations, len(basis)):
        vector = matvec(basis[-1])
        on_matvec(len(diagonal) + 1)
        diagonal.append(_dot(vector, basis[-1]))
        for _ in range(2):  # once is not enough in float32
            for earlier in basis:
                overlap = _dot(vector, earlier)
                for one, other in zip(vector, earlier, strict=True):
                    one.sub_(other, alpha=overlap)
        rest = _norm(vector)
        if rest > 1e-6 * max(map(abs, diagonal)) and len(diagonal) < max_iterations:
            beside.append(rest)
            basis.append([one / rest for one in vector])
    tridiagonal = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    for place, value in enumerate(beside):
        tridiagonal[place, place + 1] = tridiagonal[place + 1, place] = value
    return KrylovSpace(basis, tridiagonal, norm)


def _search(
    loaded: LoadedModel,
    optimizer: Influence,
    space: KrylovSpace,
    checked: tuple[list[BatchUnit], list[BatchUnit]],
    batcher: MicroBatcher,
    record: TrainingHistory,
    listener: Listener,
) -> None:
    """Take the step of the smallest damping that keeps the bound, or put the weights back and raise Diverged."""
    if not (math.isfinite(space.start_norm) and space.basis):
        raise TrainingDivergedError(f"the forget gradient's norm is {space.start_norm}: there is nothing to step along")
    parameters = get_trainable_parameters(loaded)
    base = [parameter.detach().clone() for parameter in parameters]
    forget_before, retain_before = (_mean_nll(loaded, units, batcher) for units in checked)
    dampings = [optimizer.damping] if optimizer.damping else list(_dampings(space.largest_eigenvalue))
    for number, damping in enumerate(dampings, start=1):
        raise_if_stop_requested(listener)
        started = time.monotonic()
        _set(parameters, [one + step for one, step in zip(base, space.solve(damping), strict=True)])
        forget, retain = (_mean_nll(loaded, units, batcher) for units in checked)
        row: dict[str, float | None] = {"damping": damping, "forget_nll": forget, "retain_nll": retain}
        record.record_trial(number, started, row)
        bounded = retain <= retain_before + optimizer.max_retain_increase
        if forget > forget_before and (bounded or (optimizer.damping is not None and math.isfinite(retain))):
            return
    _set(parameters, base)
    raise TrainingDivergedError(
        f"no damping from {dampings[0]:.3g} to {dampings[-1]:.3g} makes the forget answers less probable while the "
        f"retain NLL ({retain_before:.3f}) rises by at most {optimizer.max_retain_increase:g}; raise "
        "optimizer.max_retain_increase, or take an optimizer that iterates"
    )


def _dampings(largest: float) -> Iterator[float]:
    damping = MIN_DAMPING * max(largest, 1e-30)
    for _ in range(1 + round(math.log(MAX_DAMPING / MIN_DAMPING, DAMPING_FACTOR))):
        yield damping
        damping *= DAMPING_FACTOR


@torch.no_grad()
def _mean_nll(loaded: LoadedModel, units: Sequence[BatchUnit], batcher: MicroBatcher) -> float:
    """Return the mean NLL a supervised token, inf where it is not finite."""
    parts: list[float] = []

    def work(items: list[BatchItem]) -> None:
        with loaded.autocast():
            parts.append(-float(score(loaded.model, pack([one.example for one in items], loaded.device)).logp_P.sum()))

    batcher.run(units, work, undo=parts.clear)
    mean = sum(parts) / sum(one.num_tokens for one in count_totals(units).values())
    return mean if math.isfinite(mean) else math.inf


def _teller(listener: Listener, phase: Phase, optimizer: Influence) -> Callable[[int], None]:
    def tell(done: int) -> None:
        listener.emit("progress", phase=phase, done=done, total=optimizer.iterations, unit="product")

    return tell


@torch.no_grad()
def _set(parameters: Sequence[torch.nn.Parameter], values: Sequence[torch.Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)


def _dot(one: Tensors, other: Tensors) -> float:
    return sum(float((a.double() * b.double()).sum()) for a, b in zip(one, other, strict=True))


def _norm(vector: Tensors) -> float:
    return math.sqrt(_dot(vector, vector))
