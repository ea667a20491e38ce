"""One query per sequence on CPU: keys of many sequences in parts of equal size, all in one call of the kernel.

Each sequence's keys are cut into parts, and the parts of all sequences are the batch dimension of one kernel call:
its cost in Python does not depend on the count of sequences, and the kernel has parts x H_kv tasks to spread over
cores. The heads that share a KV head are the rows of one query tile, so each key is read once for all of them. The
position term of all queries is one matrix product with the table; a part's bias is a window of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from model_registry.attention.torch_flash.kernel import BlockReader, flash
from model_registry.attention.torch_flash.partial_softmax import PartialSoftmax

if TYPE_CHECKING:
    from collections.abc import Iterator

    from model_registry.attention.near_bias import NearBias

PART_KEYS = 512
"""Keys in a part, rounded to whole blocks; fewer where no sequence has as many."""

BATCH_ELEMENTS = 2**19
"""Most elements of the keys in one kernel call, rounded to whole parts."""


def decode(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    block_table: torch.Tensor,
    lengths: list[int],
    rows: torch.Tensor,
    near_bias: NearBias | None = None,
) -> torch.Tensor:
    """Attention of the last position of each of ``S`` sequences.

    Args:
        q: ``[S, H, d]``, scaled, in the type to compute in.
        k_cache: ``[B, block, H_kv, d]``.
        v_cache: ``[B, block, H_kv, d]``.
        block_table: ``[S, max_blocks]``.
        lengths: ``S`` counts of keys, none of them 0.
        rows: ``[R, d]``, the table reversed.
        near_bias: of the batch.

    Returns:
        ``[S, H, d]``.
    """
    _, H, d = q.shape
    _, block_size, H_kv, _ = k_cache.shape
    P = min(max(1, PART_KEYS // block_size), -(-max(lengths) // block_size)) * block_size
    step = max(1, BATCH_ELEMENTS // (H_kv * d * P)) * P
    reader = BlockReader(k_cache, v_cache, min(step, sum(-(-length // P) * P for length in lengths)), q.dtype)
    out = torch.empty_like(q)
    bonus = None if near_bias is None else Bonus(near_bias.of(torch.tensor(lengths, dtype=q.dtype)), near_bias.keys)
    for i, j in _batches([-(-length // P) * P for length in lengths], step):
        length = lengths[i]
        if i + 1 < j or length <= step:
            out[i:j], _ = _attend(q[i:j], reader, block_table[i:j], lengths[i:j], 0, P, rows, _of(bonus, i, j))
            continue
        result = PartialSoftmax(H, 1, d, q.dtype)
        for n in range(0, length, step):
            last = min(n + step, length)
            blocks = block_table[i:j, n // block_size :]
            output, lse = _attend(q[i:j], reader, blocks, [last - n], length - last, P, rows, _of(bonus, i, j))
            result.add(0, 1, output.transpose(0, 1), lse.transpose(0, 1))
        out[i] = result.output[:, 0]
    return out


class Bonus(NamedTuple):
    """What near keys' scores get added: ``[S]`` by sequence, for distances below ``keys``."""

    of_sequence: torch.Tensor
    keys: int


def _of(bonus: Bonus | None, i: int, j: int) -> Bonus | None:
    return None if bonus is None else bonus._replace(of_sequence=bonus.of_sequence[i:j])


def _batches(sizes: list[int], limit: int) -> Iterator[tuple[int, int]]:
    """Cuts the sequences into runs ``i`` to ``j`` whose sizes sum to at most ``limit``; one that is larger is alone."""
    i = total = 0
    for j, size in enumerate(sizes):
        if i < j and total + size > limit:
            yield i, j
            i, total = j, 0
        total += size
    yield i, len(sizes)


def _attend(
    q: torch.Tensor,
    reader: BlockReader,
    block_table: torch.Tensor,
    lengths: list[int],
    after: int,
    P: int,
    rows: torch.Tensor,
    bonus: Bonus | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention ``[S, H, d]`` and log-sum-exp ``[S, H]`` over runs of keys, in parts of ``P``.

    Sequence ``s`` has ``lengths[s]`` keys in the blocks ``block_table[s]``; ``after`` keys lie between the last of
    them and the query. The other arguments are those of ``decode``.
    """
    (S, H, d), block_size, H_kv = q.shape, reader.block_size, reader.H_kv
    parts = torch.tensor([-(-length // P) for length in lengths])
    owner = torch.repeat_interleave(parts)
    N = owner.shape[0]
    nth = torch.arange(N) - (parts.cumsum(0) - parts)[owner]
    length, first = torch.tensor(lengths)[owner], nth * P

    # Parts are filled up with the sequence's last block. Its unused slots may hold NaN, which no mask would stop
    # (0 * NaN is NaN), so what is past the end is set to zero.
    columns = (first // block_size)[:, None] + torch.arange(P // block_size)
    ids = block_table[owner[:, None], columns.minimum(((length - 1) // block_size)[:, None])].flatten()
    unused = (first[:, None] + torch.arange(P) >= length[:, None]).flatten().nonzero()[:, 0]
    k, v = (x.index_fill_(1, unused, 0).view(H_kv, N, P, d).transpose(0, 1) for x in reader.read(ids))
    term = _position_term(q, max(lengths), after, P, rows, bonus)
    window = (term.shape[2] - P - length + first).clamp(min=0)
    bias = term.unfold(2, P, 1)[owner, :, window]
    output, lse = flash(q[owner].view(N, H_kv, -1, d), k, v, bias.view(N, H_kv, -1, P))
    output, lse = output.reshape(N, H, d), lse.reshape(N, H)
    if N == S:
        return output, lse
    by_sequence = lse.new_full((S, int(parts.max()), H), -torch.inf)
    by_sequence[owner, nth] = lse
    joint = by_sequence.logsumexp(dim=1)
    weight = (lse - joint[owner]).exp_()
    return torch.zeros_like(q).index_add_(0, owner, output * weight[..., None]), joint


def _position_term(
    q: torch.Tensor, keys: int, after: int, P: int, rows: torch.Tensor, bonus: Bonus | None
) -> torch.Tensor:
    """``q . p(t)`` and the near keys' bonus by column, ``[S, H, P + w + P]``: ``P`` zeros for ``t >= R``, then ``w``
    columns for ``t`` falling to ``after``, then ``P`` times ``-inf`` for what lies past the last key."""
    (S, H, d), R = q.shape, rows.shape[0]
    t_high = min(R - 1, after + keys - 1)
    w = max(0, t_high - after + 1)
    term = torch.empty(S * H, P + w + P, dtype=q.dtype)
    term[:, :P] = 0
    term[:, P + w :] = -torch.inf
    if w:
        torch.mm(q.reshape(-1, d), rows[R - 1 - t_high : R - after].t(), out=term[:, P : P + w])
    term = term.view(S, H, -1)
    if bonus is not None:
        first = P + max(0, t_high - bonus.keys + 1)
        term[:, :, first : P + w] += bonus.of_sequence[:, None, None]
    return term
