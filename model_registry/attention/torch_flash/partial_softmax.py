"""Attention over a set of keys from attention over its parts, joined by their log-sum-exp."""

from __future__ import annotations

import torch


class PartialSoftmax:
    """Running ``softmax(e) v`` of ``n_q`` queries over the keys added so far.

    With ``o_i`` the attention over part ``i`` and ``l_i`` the log of its sum of ``exp(e)``, the attention over both
    parts is ``o = o_1 exp(l_1 - l) + o_2 exp(l_2 - l)``, where ``l = log(exp(l_1) + exp(l_2))``.
    """

    def __init__(self, H: int, n_q: int, d: int, dtype: torch.dtype) -> None:
        self._n_q = n_q
        self._shape = (H, n_q, d)
        self._dtype = dtype
        self._output: torch.Tensor | None = None
        self._lse: torch.Tensor | None = None

    def add(self, first: int, last: int, output: torch.Tensor, lse: torch.Tensor) -> None:
        """Add a part of the keys for queries ``first`` to ``last``.

        Args:
            first: the first query.
            last: one past the last query.
            output: ``[H, last - first, d]`` attention over the part.
            lse: ``[H, last - first]`` log-sum-exp of its scores, finite.
        """
        if self._output is None or self._lse is None:
            if last - first == self._n_q:
                self._output, self._lse = output, lse
                return
            self._output = torch.zeros(self._shape, dtype=self._dtype)
            self._lse = torch.full(self._shape[:2], -torch.inf, dtype=self._dtype)
        old_output, old_lse = self._output[:, first:last], self._lse[:, first:last]
        joint = torch.logaddexp(old_lse, lse)
        old_output.mul_((old_lse - joint).exp_().unsqueeze(-1))
        old_output.addcmul_(output, (lse - joint).exp_().unsqueeze(-1))
        old_lse.copy_(joint)

    @property
    def output(self) -> torch.Tensor:
        """``[H, n_q, d]``; every query must have had a key."""
        assert self._output is not None
        return self._output
