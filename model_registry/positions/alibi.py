"""ALiBi's slopes (Press et al., ICLR 2022, arXiv 2108.12409), the baseline position encoding ``alibi``."""

from __future__ import annotations


def alibi_slopes(num_heads: int) -> list[float]:
    """One slope per query head: head ``h``'s logits get ``-slope[h] * (m - n)`` after the ``1/sqrt(d)`` scaling.

    For ``H`` a power of two, ``slope[h] = 2^(-8 (h + 1) / H)``. For any other ``H`` the authors' interleaving, which
    BLOOM and vLLM use too: the slopes of the largest power of two ``P < H``, then every second slope (the first,
    third, ...) of the sequence for ``2 P`` heads until there are ``H``.

    Raises:
        ValueError: ``num_heads`` is not positive.
    """
    if num_heads < 1:
        raise ValueError(f"num_heads={num_heads!r}: must be positive")
    power = 1 << (num_heads.bit_length() - 1)
    slopes = [2.0 ** (-8.0 * (head + 1) / power) for head in range(power)]
    doubled = [2.0 ** (-8.0 * (head + 1) / (2 * power)) for head in range(2 * power)]
    return slopes + doubled[::2][: num_heads - power]
