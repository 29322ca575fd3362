"""Products with second derivatives of the mean NLL, exact, in float32: of the Hessian, and of its Gauss-Newton part.

Attention takes its plain path here, because the fused kernels have no second derivative; memory grows with the square
of an example's length, and a micro-batch costs about three times a gradient's.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from soul_core.data.packing import pack
from soul_core.models.loading import LoadedModel
from soul_core.models.scoring import Scores, score
from soul_core.training.micro_batching import BatchItem, BatchUnit, MicroBatcher
from soul_core.training.step import count_totals, get_trainable_parameters

Tensors = list[torch.Tensor]


def hessian_vector_product(
    loaded: LoadedModel, units: Sequence[BatchUnit], batcher: MicroBatcher, vector: Sequence[torch.Tensor]
) -> Tensors:
    """Return H v for the Hessian of the mean NLL over `units`; `vector` has one tensor a trainable parameter.

    Reverse over reverse: the gradient of (gradient . v). Source: Pearlmutter 1994, "Fast exact multiplication by the
    Hessian", neco.1994.6.1.147.
    """

    def product(scores: Scores, parameters: Tensors, num_positions: int) -> Tensors:
        loss = cross_entropy(scores.logits_PV, scores.labels_P, reduction="sum") / num_positions
        gradients = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)
        dot = torch.stack(
            [(gradient * direction).sum() for gradient, direction in zip(gradients, vector, strict=True)]
        ).sum()
        return list(torch.autograd.grad(dot, parameters, materialize_grads=True))

    return _over(loaded, units, batcher, product)


def gauss_newton_vector_product(
    loaded: LoadedModel, units: Sequence[BatchUnit], batcher: MicroBatcher, vector: Sequence[torch.Tensor]
) -> Tensors:
    """Return G v, G = mean over positions of J^T (diag(p) - p p^T) J with J the Jacobian of the logits: symmetric and
    never negative.

    J v is the derivative of J^T u by u. Source: Schraudolph 2002, "Fast curvature matrix-vector products",
    neco.2002.14.7.1723.
    """

    def product(scores: Scores, parameters: Tensors, num_positions: int) -> Tensors:
        logits_PV = scores.logits_PV
        dummy_PV = torch.zeros_like(logits_PV, requires_grad=True)
        pulled = torch.autograd.grad(logits_PV, parameters, dummy_PV, create_graph=True, materialize_grads=True)
        (moved_PV,) = torch.autograd.grad(pulled, dummy_PV, list(vector), retain_graph=True)
        p_PV = torch.softmax(logits_PV.detach(), dim=-1)
        bent_PV = p_PV * (moved_PV - (p_PV * moved_PV).sum(dim=-1, keepdim=True)) / num_positions
        return list(torch.autograd.grad(logits_PV, parameters, bent_PV, materialize_grads=True))

    return _over(loaded, units, batcher, product)


def _over(
    loaded: LoadedModel,
    units: Sequence[BatchUnit],
    batcher: MicroBatcher,
    product: Callable[[Scores, Tensors, int], Tensors],
) -> Tensors:
    """Add up the products of the micro-batches."""
    parameters: Tensors = [*get_trainable_parameters(loaded)]
    num_positions = sum(totals.num_tokens for totals in count_totals(units).values())
    total = [torch.zeros_like(parameter) for parameter in parameters]

    def work(items: list[BatchItem]) -> None:
        with use_twice_differentiable_attention():
            scores = score(loaded.model, pack([item.example for item in items], loaded.device))
            part = product(scores, parameters, num_positions)
        for tensor, addend in zip(total, part, strict=True):
            tensor.add_(addend)

    def undo() -> None:
        for whole in total:
            whole.zero_()

    batcher.run(units, work, undo)
    return total


@contextmanager
def use_twice_differentiable_attention() -> Iterator[None]:
    """Take the attention whose derivative has one itself."""
    with sdpa_kernel(SDPBackend.MATH):
        yield
