"""One forward pass over packed examples -> log-probabilities at the supervised positions, and only there.

Shape legend of the engine: B sequences (examples), T tokens of a pack, P supervised positions, V vocabulary,
D hidden size. A name ends in its shape: `logp_P`, `logits_PV`.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from soul_core.data import Packed
from soul_core.packed_attention import packed_kwargs


@dataclass(frozen=True, slots=True)
class Scores:
    """What terms see of B sequences. Differentiable where the forward pass was."""

    logits_PV: torch.Tensor  # float32
    labels_P: torch.Tensor
    logp_P: torch.Tensor  # log-probability of each label
    sequence_P: torch.Tensor  # 0..B-1
    num_sequences: int

    @property
    def sequence_logp_B(self) -> torch.Tensor:
        """Log-probability of each whole answer: the SUM over its tokens."""
        return self.logp_P.new_zeros(self.num_sequences).index_add(0, self.sequence_P, self.logp_P)

    @property
    def length_B(self) -> torch.Tensor:
        """Supervised tokens of each sequence."""
        return torch.bincount(self.sequence_P, minlength=self.num_sequences)

    def select(self, sequences: list[int]) -> "Scores":
        """Return the scores of some sequences, renumbered from 0 in the order given."""
        place_B = torch.full((self.num_sequences,), -1, dtype=torch.long, device=self.sequence_P.device)
        place_B[torch.tensor(sequences, dtype=torch.long, device=place_B.device)] = torch.arange(
            len(sequences), device=place_B.device
        )
        renumbered_P = place_B[self.sequence_P]
        order_P = torch.argsort(renumbered_P, stable=True)  # the others, at -1, come first
        order_P = order_P[(renumbered_P < 0).sum() :]
        return Scores(
            self.logits_PV[order_P], self.labels_P[order_P], self.logp_P[order_P], renumbered_P[order_P], len(sequences)
        )


def score(model: PreTrainedModel, packed: Packed) -> Scores:
    """Run the model once. The vocabulary projection happens at the P supervised positions only, inside the model, so
    whatever an architecture does to its logits (a softcap, a scale) is done.
    """
    logits_PV = model(
        input_ids=packed.token_ids_1T,
        position_ids=packed.position_ids_1T,
        use_cache=False,
        logits_to_keep=packed.supervised_P,
        **packed_kwargs(packed),
    ).logits[0]
    logits_PV = logits_PV.float()  # softmax over a large vocabulary in bfloat16 loses the tail
    logp_P = -functional.cross_entropy(logits_PV, packed.labels_P, reduction="none")
    return Scores(logits_PV, packed.labels_P, logp_P, packed.sequence_P, len(packed.segment_lengths))
