"""`python -m bench [WORD]`: measure everything, or the rows that contain WORD."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from bench.rows import COSTS, ROWS, SIZES, Cost, Row, Size


def _time(seconds: float) -> str:
    if seconds >= 1e-3:
        return f"{seconds * 1e3:.1f} ms"
    if seconds >= 1e-6:
        return f"{seconds * 1e6:.2f} us"
    return f"{seconds * 1e9:.1f} ns"


def _ratios(rows: Sequence[Row]) -> int:
    """Print the rows; how many are over their limit."""
    print(f"{'what':<31}{'against':<33}{'ours':>10}{'other':>11}{'ratio':>8}{'limit':>7}")
    over = 0
    for row in rows:
        result = row.measure()
        if isinstance(result, str):
            print(f"{row.what:<31}{row.against:<33}{result}")
            continue
        found, note = result
        limit = "" if row.limit is None else f"{row.limit:g}"
        verdict = "  OVER" if row.limit is not None and found.ratio > row.limit else ""
        over += bool(verdict)
        print(
            f"{row.what:<31}{row.against:<33}{_time(found.ours):>10}{_time(found.other):>11}"
            f"{_ratio(found.ratio):>8}{limit:>7}{verdict}  {note}".rstrip()
        )
    return over


def _costs(rows: Sequence[Cost]) -> int:
    """Print what operations cost; how many are over their limit."""
    print(f"\n{'operation':<31}{'':<33}{'one':>10}{'one of 64':>11}{'ratio':>8}{'limit':>7}")
    over = 0
    for row in rows:
        found = row.measure()
        if isinstance(found, float):
            print(f"{row.what:<64}{_time(found):>10}")
            continue
        verdict = "  OVER" if row.limit is not None and found.ratio > row.limit else ""
        over += bool(verdict)
        print(
            f"{row.what:<64}{_time(found.other):>10}{_time(found.ours):>11}"
            f"{_ratio(found.ratio):>8}{row.limit:>7g}{verdict}"
        )
    return over


def _sizes(rows: Sequence[Size]) -> int:
    """Print what memory is taken; how many rows are over their limit."""
    print(f"\n{'memory':<31}{'':<33}{'MB':>10}{'at most':>26}")
    over = 0
    for row in rows:
        result = row.measure()
        if isinstance(result, str):
            print(f"{row.what:<64}{result}")
            continue
        found, note = result
        verdict = "  OVER" if found > row.limit else ""
        over += bool(verdict)
        print(f"{row.what:<64}{found / 1e6:>10.0f}{row.limit / 1e6:>26.0f}{verdict}  {note}")
    return over


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def main() -> int:
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    ratios = [row for row in ROWS if word in row.what]
    sizes = [row for row in SIZES if word in row.what]
    costs = [row for row in COSTS if word in row.what]
    over = _ratios(ratios) if ratios else 0
    over += _sizes(sizes) if sizes else 0
    over += _costs(costs) if costs else 0
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
