"""A head of two layers, in the place of the plain one of transformers."""

from __future__ import annotations

import torch
from torch import nn


class MlpHead(nn.Linear):
    """Linear, GELU, dropout, linear; without biases, as the plain head of a decoder.

    Its first layer has the name of the plain head and another shape, so that a program that knows only the plain one refuses the file
    rather than draw a new head.
    """

    def __init__(self, inputs: int, classes: int, width: int, dropout: float) -> None:
        super().__init__(inputs, width, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(width, classes, bias=False)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """A number for each class."""
        found: torch.Tensor = self.out(self.dropout(nn.functional.gelu(super().forward(input))))
        return found
