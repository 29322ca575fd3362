"""Influence unlearning: one static step theta + (H + damping I)^-1 g, instead of a training.

g is the gradient of the forget answers' mean NLL, H the Gauss-Newton matrix of the retain answers' mean NLL. The system
is solved by conjugate gradients in their Lanczos form: one Krylov space of H and g serves every damping. The step takes
the smallest damping with which the forget loss rises and the retain loss stays under its bound.

Shapes: K vectors of the Krylov space. A vector of the space is a list of tensors, one per trainable parameter.
Source: influence functions (Koh and Liang 2017, arXiv:1703.04730); IU as the baseline of SOUL (arXiv:2404.18239,
section 4); Lanczos and conjugate gradients: Golub and Van Loan, "Matrix Computations", 4th ed., section 11.3.
Differs from SOUL's baseline, which inverts an empirical Fisher by WoodFisher's recurrence (arXiv:2004.14340): here the
matrix is the Gauss-Newton one, its products are exact, and the step length is searched, not tuned.
Memory: `iterations` + 4 float32 copies of the trainable weights.
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
from soul_core.spec.strategy import Influence
from soul_core.training.checkpoint import Stateful, load_newest_checkpoint, save_checkpoint
from soul_core.training.history import TrainingHistory, TrainingResult
from soul_core.training.micro_batching import BatchItem, BatchUnit, MicroBatcher
from soul_core.training.saliency import select_units
from soul_core.training.second_order import gauss_newton_vector_product
from soul_core.training.step import compute_nll_gradients, count_totals
from soul_core.training.trainable import TrainableParameters

Tensors = list[torch.Tensor]

#: Dampings that the search tries, as multiples of the largest curvature: from nearly none to a step along the gradient.
MIN_DAMPING, MAX_DAMPING, DAMPING_FACTOR = 1e-4, 1e6, 10**0.5


def take_influence_step(
    loaded: LoadedModel,
    spec: JobSpec,
    *,
    forget: Sequence[Example],
    retain: Sequence[Example],
    state_dir: Path,
    listener: Listener,
    phase: Phase = "unlearn",
) -> TrainingResult:
    """Change the trainable weights by one step. The arguments are those of `train`.

    An interruption before the step is taken loses the products so far; a step that was taken is saved as a checkpoint.

    Raises:
        TrainingDivergedError: No damping keeps the bound; the weights are unchanged.
    """
    trainable = TrainableParameters(loaded, spec)
    try:
        history = TrainingHistory(loaded, listener, phase, num_steps=1)
        step = _InfluenceStep(loaded, spec, trainable.parameters, history, listener, phase)
        parts: dict[str, Stateful] = {"weights": trainable, "history": history}
        folder = state_dir / "train"
        if checkpoint := load_newest_checkpoint(folder, loaded.device):
            for name, part in parts.items():
                part.load_state_dict(checkpoint.states[name])
            history.record_resume(checkpoint.step)
        else:
            step.take(forget, retain)
            save_checkpoint(folder, 1, {name: part.state_dict() for name, part in parts.items()})
    finally:
        adapter = trainable.finalize()
    return history.make_result(1, adapter)


class _InfluenceStep:
    """The computation of the step, and the search for its damping."""

    def __init__(
        self,
        loaded: LoadedModel,
        spec: JobSpec,
        parameters: Sequence[torch.nn.Parameter],
        history: TrainingHistory,
        listener: Listener,
        phase: Phase,
    ) -> None:
        assert isinstance(spec.strategy, Influence)
        self._loaded, self._settings, self._seed = loaded, spec.strategy, spec.seed
        self._parameters, self._history, self._listener, self._phase = parameters, history, listener, phase
        self._batcher = MicroBatcher(spec.training.micro_batch_tokens, listener)

    def take(self, forget: Sequence[Example], retain: Sequence[Example]) -> None:
        """Compute the Krylov space of all forget rows and selected retain rows, and step by the damping found."""
        forget_units = select_units("forget", forget, len(forget), self._seed)
        retain_units = select_units("retain", retain, self._settings.max_examples, self._seed + 1)
        gradient, _ = compute_nll_gradients(self._loaded, forget_units, self._batcher)
        self._history.count_tokens(forget_units)

        def multiply(vector: Tensors) -> Tensors:
            raise_if_stop_requested(self._listener)
            self._history.count_tokens(retain_units, passes=2.0)
            return gauss_newton_vector_product(self._loaded, retain_units, self._batcher, vector)

        def report(num_products: int) -> None:
            total = self._settings.iterations
            self._listener.emit("progress", phase=self._phase, done=num_products, total=total, unit="product")

        space = build_krylov_space(multiply, gradient, self._settings.iterations, on_matvec=report)
        if not (math.isfinite(space.start_norm) and space.basis):
            raise TrainingDivergedError(
                f"the forget gradient's norm is {space.start_norm}, so there is no direction to step in; give other "
                "forget rows, or use strategy.kind 'single'"
            )
        self._search_damping(
            space, select_units("forget", forget, self._settings.max_examples, self._seed), retain_units
        )

    def _search_damping(self, space: "KrylovSpace", forget: list[BatchUnit], retain: list[BatchUnit]) -> None:
        """Take the step of the smallest damping that keeps the bound, or restore the weights and raise."""
        settings = self._settings
        base = [parameter.detach().clone() for parameter in self._parameters]
        base_forget_nll, base_retain_nll = self._compute_mean_nll(forget), self._compute_mean_nll(retain)
        dampings = [settings.damping] if settings.damping else list(_list_dampings(space.largest_eigenvalue))
        for number, damping in enumerate(dampings, start=1):
            raise_if_stop_requested(self._listener)
            started_at = time.monotonic()
            self._set_weights([weight + step for weight, step in zip(base, space.solve(damping), strict=True)])
            forget_nll, retain_nll = self._compute_mean_nll(forget), self._compute_mean_nll(retain)
            row: dict[str, float | None] = {"damping": damping, "forget_nll": forget_nll, "retain_nll": retain_nll}
            self._history.record_trial(number, started_at, row)
            is_bounded = retain_nll <= base_retain_nll + settings.max_retain_increase
            if forget_nll > base_forget_nll and (is_bounded or (settings.damping and math.isfinite(retain_nll))):
                return
        self._set_weights(base)
        raise TrainingDivergedError(
            f"no damping from {dampings[0]:.3g} to {dampings[-1]:.3g} makes the forget answers less probable while the "
            f"retain NLL ({base_retain_nll:.3f}) rises by at most {settings.max_retain_increase:g}; raise "
            "strategy.max_retain_increase, or use strategy.kind 'single'"
        )

    @torch.no_grad()
    def _compute_mean_nll(self, units: Sequence[BatchUnit]) -> float:
        """Return the mean NLL per supervised token, or inf if it is not finite."""
        sums: list[float] = []

        def work(items: list[BatchItem]) -> None:
            with self._loaded.autocast():
                packed = pack([item.example for item in items], self._loaded.device)
                sums.append(-float(score(self._loaded.model, packed).logp_P.sum()))

        self._batcher.run(units, work, undo=sums.clear)
        mean = sum(sums) / sum(totals.num_tokens for totals in count_totals(units).values())
        return mean if math.isfinite(mean) else math.inf

    @torch.no_grad()
    def _set_weights(self, values: Sequence[torch.Tensor]) -> None:
        for parameter, value in zip(self._parameters, values, strict=True):
            parameter.copy_(value)


def _list_dampings(largest_eigenvalue: float) -> Iterator[float]:
    damping = MIN_DAMPING * max(largest_eigenvalue, 1e-30)
    for _ in range(1 + round(math.log(MAX_DAMPING / MIN_DAMPING, DAMPING_FACTOR))):
        yield damping
        damping *= DAMPING_FACTOR


@dataclass(frozen=True)
class KrylovSpace:
    """An orthonormal basis of span(g, H g, H^2 g, ...), and H in it, which is tridiagonal."""

    basis: list[Tensors]
    tridiagonal_KK: torch.Tensor  # float64
    start_norm: float  # of g

    def solve(self, damping: float) -> Tensors:
        """Return the solution of (H + damping I) x = g after one conjugate-gradient iteration per basis vector."""
        size = len(self.basis)
        right_K = torch.zeros(size, dtype=torch.float64)
        right_K[0] = self.start_norm
        shifted_KK = self.tridiagonal_KK + damping * torch.eye(size, dtype=torch.float64)
        coefficients = torch.linalg.solve(shifted_KK, right_K).tolist()
        solution = [torch.zeros_like(tensor) for tensor in self.basis[0]]
        for coefficient, vector in zip(coefficients, self.basis, strict=True):
            for total, part in zip(solution, vector, strict=True):
                total.add_(part, alpha=coefficient)
        return solution

    @property
    def largest_eigenvalue(self) -> float:
        """The largest eigenvalue of H in this space: the largest curvature that the products met."""
        return float(torch.linalg.eigvalsh(self.tridiagonal_KK)[-1])


def build_krylov_space(
    matvec: Callable[[Tensors], Tensors],
    start_vector: Tensors,
    max_iterations: int,
    *,
    on_matvec: Callable[[int], None] = lambda _: None,
) -> KrylovSpace:
    """Build the space by Lanczos' recurrence with full reorthogonalization.

    Args:
        matvec: v -> H v, as tensors that may be changed.
        start_vector: g.
        max_iterations: Products with H; fewer when H adds nothing new.
        on_matvec: Called with the number of products so far.
    """
    start_norm = _compute_norm(start_vector)
    basis = [[tensor.float() / start_norm for tensor in start_vector]] if start_norm > 0 else []
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    while len(diagonal) < min(max_iterations, len(basis)):
        vector = matvec(basis[-1])
        on_matvec(len(diagonal) + 1)
        diagonal.append(_dot(vector, basis[-1]))
        for _ in range(2):  # once is not enough in float32
            for earlier in basis:
                overlap = _dot(vector, earlier)
                for tensor, other in zip(vector, earlier, strict=True):
                    tensor.sub_(other, alpha=overlap)
        norm = _compute_norm(vector)
        if norm > 1e-6 * max(map(abs, diagonal)) and len(diagonal) < max_iterations:
            off_diagonal.append(norm)
            basis.append([tensor / norm for tensor in vector])
    tridiagonal_KK = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    for place, value in enumerate(off_diagonal):
        tridiagonal_KK[place, place + 1] = tridiagonal_KK[place + 1, place] = value
    return KrylovSpace(basis, tridiagonal_KK, start_norm)


def _dot(vector: Tensors, other: Tensors) -> float:
    return sum(float((left.double() * right.double()).sum()) for left, right in zip(vector, other, strict=True))


def _compute_norm(vector: Tensors) -> float:
    return math.sqrt(_dot(vector, vector))
