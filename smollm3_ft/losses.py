"""Losses of preference pairs, from how much likelier training made each answer than the base model has it.

Each takes the log ratios of the chosen and of the rejected answers, log p(answer) - log p_base(answer) in nats, and
`beta`, and returns the loss of each pair. A new one is a function, its entry here, and its name in `config.Loss`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

Loss = Callable[[Tensor, Tensor, float], Tensor]

DISCOPOP_TEMPERATURE = 0.05  # the paper's


def sigmoid(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """DPO: the logistic loss of the margin (Rafailov et al. 2023, arXiv:2305.18290, eq. 7)."""
    return -logsigmoid(beta * (chosen - rejected))


def hinge(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """SLiC's hinge on the normalised margin (Liu et al. 2023, RSO, arXiv:2309.06657, eq. 10)."""
    return torch.relu(1 - beta * (chosen - rejected))


def ipo(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """IPO: the margin a token is drawn to 1 / (2 beta) (Azar et al. 2023, arXiv:2310.12036, eq. 17)."""
    return (chosen - rejected - 1 / (2 * beta)) ** 2


def apo_zero(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """APO, chosen answers better than the model's own (D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 7)."""
    return 1 - torch.sigmoid(beta * chosen) + torch.sigmoid(beta * rejected)


def apo_down(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """APO, chosen answers worse than the model's own (D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 8)."""
    return torch.sigmoid(beta * chosen) + 1 - torch.sigmoid(beta * (chosen - rejected))


def nca_pair(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """NCA: each answer against noise, so that the chosen one stays likely (Chen et al. 2024, arXiv:2402.05369)."""
    up, down = beta * chosen, beta * rejected
    return -logsigmoid(up) - 0.5 * logsigmoid(-up) - 0.5 * logsigmoid(-down)


def bco_pair(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """BCO: each answer classified by itself, without a shift (Jung et al. 2024, arXiv:2404.04656)."""
    return -logsigmoid(beta * chosen) - logsigmoid(-beta * rejected)


def sppo_hard(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """SPPO, the chosen answer always winning (Wu et al. 2024, arXiv:2405.00675, eq. 4.7 with P = 1)."""
    return (chosen - 0.5 / beta) ** 2 + (rejected + 0.5 / beta) ** 2


def discopop(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """DiscoPOP: logistic and exponential loss, mixed by the margin (Lu et al. 2024, arXiv:2406.08414, eq. 5)."""
    margin = beta * (chosen - rejected)
    mixed = torch.sigmoid(margin / DISCOPOP_TEMPERATURE)
    return -logsigmoid(margin) * (1 - mixed) + torch.exp(-margin) * mixed


LOSSES: dict[str, Loss] = {
    "sigmoid": sigmoid,
    "hinge": hinge,
    "ipo": ipo,
    "apo_zero": apo_zero,
    "apo_down": apo_down,
    "nca_pair": nca_pair,
    "bco_pair": bco_pair,
    "sppo_hard": sppo_hard,
    "discopop": discopop,
    "sigmoid_norm": sigmoid,  # DPO of the mean a token (Lambert et al. 2024, Tülu 3, arXiv:2411.15124, eq. 6)
}
PER_TOKEN = frozenset({"ipo", "sigmoid_norm"})  # given log ratios divided by the tokens of their answers


def of_pairs(name: str, ratios: Tensor, tokens: Tensor, beta: float) -> Tensor:
    """The loss of each pair, from log ratios and numbers of trained tokens, each (pairs, 2): chosen and rejected."""
    given = ratios / tokens if name in PER_TOKEN else ratios
    return LOSSES[name](given[:, 0], given[:, 1], beta)
