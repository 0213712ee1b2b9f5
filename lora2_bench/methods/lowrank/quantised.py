"""A frozen linear map that is kept in few bits."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn


class QuantisedLinear(nn.Linear):
    """h = x Ŵᵀ + b, where Ŵ is computed from buffers whenever it is needed; no floating copy of it stays.

    Attributes:
        dtype: of the weight that it was made from, and of Ŵ.
    """

    def __init__(self, base: nn.Linear) -> None:
        nn.Module.__init__(self)  # nn.Linear's own would make a weight
        self.in_features, self.out_features = base.in_features, base.out_features
        self.dtype = base.weight.dtype
        self.register_parameter("bias", base.bias)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """Ŵ (d_out×d_in)."""
        return self.dequantise()

    @abstractmethod
    def dequantise(self) -> Tensor:
        """Ŵ (d_out×d_in), in a new tensor."""
