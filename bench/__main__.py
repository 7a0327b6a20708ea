"""`python -m bench [WORD]`: measure everything, or the rows that contain WORD."""

from __future__ import annotations

import sys

from bench.rows import ROWS


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.2f} us"


def main() -> int:
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    print(f"{'what':<31}{'against':<33}{'ours':>10}{'other':>11}{'ratio':>8}{'limit':>7}")
    over = 0
    for row in ROWS:
        if word not in row.what:
            continue
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
            f"{found.ratio:>8.2f}{limit:>7}{verdict}  {note}".rstrip()
        )
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
