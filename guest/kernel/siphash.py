"""SipHash-2-4 of one 64-bit word, with which %p hides addresses (Linux lib/siphash.c).

Source: J.-P. Aumasson, D. J. Bernstein, SipHash: a fast short-input PRF.
"""

from __future__ import annotations

_M64 = (1 << 64) - 1
_START = (0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573)


def _rotated(word: int, bits: int) -> int:
    return (word << bits | word >> 64 - bits) & _M64


def _round(v: list[int]) -> None:
    v[0] = (v[0] + v[1]) & _M64
    v[2] = (v[2] + v[3]) & _M64
    v[1] = _rotated(v[1], 13) ^ v[0]
    v[3] = _rotated(v[3], 16) ^ v[2]
    v[0] = _rotated(v[0], 32)
    v[2] = (v[2] + v[1]) & _M64
    v[0] = (v[0] + v[3]) & _M64
    v[1] = _rotated(v[1], 17) ^ v[2]
    v[3] = _rotated(v[3], 21) ^ v[0]
    v[2] = _rotated(v[2], 32)


def siphash_1u64(word: int, key: tuple[int, int]) -> int:
    """The hash of the eight bytes of ``word``, little-endian; the key's halves are too."""
    v = [start ^ key[i & 1] for i, start in enumerate(_START)]
    for block in (word, 8 << 56):  # the second: what is left of the input, and its length
        v[3] ^= block
        _round(v)
        _round(v)
        v[0] ^= block
    v[2] ^= 0xFF
    for _ in range(4):
        _round(v)
    return v[0] ^ v[1] ^ v[2] ^ v[3]
