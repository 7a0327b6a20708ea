"""`python -m bench [WORD]`: measure everything, or the rows that contain WORD.

The exit status is 1 when a row is over its limit or failed, and 2 when no row contains WORD.
What cannot be measured here, for want of QEMU or of fetched guests, says so and is no failure.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import TypeVar

from bench.measure import Failed, Unmeasurable
from bench.rows import COSTS, ROWS, SIZES, Cost, Row, Size

_Found = TypeVar("_Found")


def _time(seconds: float) -> str:
    if seconds >= 1e-3:
        return f"{seconds * 1e3:.1f} ms"
    if seconds >= 1e-6:
        return f"{seconds * 1e6:.2f} us"
    return f"{seconds * 1e9:.1f} ns"


def _measured(measure: Callable[[], _Found]) -> tuple[_Found | str, bool]:
    """What was found; or why there is nothing, and whether something went wrong."""
    try:
        return measure(), False
    except Unmeasurable as e:
        return f"not measured: {_line(e)}", False
    except Failed as e:
        return f"FAILED: {_line(e)}", True
    except Exception as e:  # of a row: the others are measured all the same
        traceback.print_exc()
        return f"FAILED: {type(e).__name__}: {_line(e)}", True


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")


def _ratios(rows: Sequence[Row]) -> int:
    """Print the rows; how many are over their limit or failed."""
    print(f"{'what':<31}{'against':<33}{'ours':>10}{'other':>11}{'ratio':>8}{'limit':>7}")
    wrong = 0
    for row in rows:
        result, failed = _measured(row.measure)
        if isinstance(result, str):
            wrong += failed
            print(f"{row.what:<31}{row.against:<33}{result}", flush=True)
            continue
        found, note = result
        limit = "" if row.limit is None else f"{row.limit:g}"
        verdict = "  OVER" if row.limit is not None and found.ratio > row.limit else ""
        wrong += bool(verdict)
        print(
            f"{row.what:<31}{row.against:<33}{_time(found.ours):>10}{_time(found.other):>11}"
            f"{_ratio(found.ratio):>8}{limit:>7}{verdict}  {note}".rstrip()
        )
    return wrong


def _costs(rows: Sequence[Cost]) -> int:
    """Print what operations cost; how many are over their limit or failed."""
    print(f"\n{'operation':<31}{'':<33}{'one':>10}{'one of 64':>11}{'ratio':>8}{'limit':>7}")
    wrong = 0
    for row in rows:
        found, failed = _measured(row.measure)
        if isinstance(found, str):
            wrong += failed
            print(f"{row.what:<64}{found}", flush=True)
            continue
        if isinstance(found, float):
            print(f"{row.what:<64}{_time(found):>10}")
            continue
        verdict = "  OVER" if row.limit is not None and found.ratio > row.limit else ""
        wrong += bool(verdict)
        print(
            f"{row.what:<64}{_time(found.other):>10}{_time(found.ours):>11}"
            f"{_ratio(found.ratio):>8}{row.limit:>7g}{verdict}"
        )
    return wrong


def _sizes(rows: Sequence[Size]) -> int:
    """Print what memory is taken; how many rows are over their limit or failed."""
    print(f"\n{'memory':<31}{'':<33}{'MB':>10}{'at most':>26}")
    wrong = 0
    for row in rows:
        result, failed = _measured(row.measure)
        if isinstance(result, str):
            wrong += failed
            print(f"{row.what:<64}{result}", flush=True)
            continue
        found, note = result
        verdict = "  OVER" if found > row.limit else ""
        wrong += bool(verdict)
        print(f"{row.what:<64}{found / 1e6:>10.0f}{row.limit / 1e6:>26.0f}{verdict}  {note}")
    return wrong


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def main() -> int:
    # Processes start from compiled bytecode, as those of an installed package do.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    ratios = [row for row in ROWS if word in row.what]
    sizes = [row for row in SIZES if word in row.what]
    costs = [row for row in COSTS if word in row.what]
    if not (ratios or sizes or costs):
        print(f"bench: no row contains {word!r}; without a word all are measured", file=sys.stderr)
        return 2
    wrong = _ratios(ratios) if ratios else 0
    wrong += _sizes(sizes) if sizes else 0
    wrong += _costs(costs) if costs else 0
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
