"""Class scores taken apart at the true class."""

from __future__ import annotations

import torch
from torch import Tensor


def other_classes(logits: Tensor, labels: Tensor) -> Tensor:
    """(N, C) logits without the true class: (N, C - 1)."""
    kept = torch.arange(logits.shape[1] - 1, device=logits.device)[None]
    return logits.gather(1, kept + (kept >= labels.long()[:, None]))


def target_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """Logit of the true class against all others together, ``z_y - ln sum_{c != y} exp z_c``: (N,)."""
    own = logits.gather(1, labels.long()[:, None]).squeeze(1)
    return own - other_classes(logits, labels).logsumexp(1)
