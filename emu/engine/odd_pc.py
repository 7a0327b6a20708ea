"""Instructions begin at even addresses, also behind a return to an odd mepc or sepc.

Bit 0 of mepc and sepc is always zero (section 3.1.14). The engine keeps what is written there;
`emu.engine.csr_repairs` clears it. On the public way no CSR can be repaired: `mret` and `sret` go
to the odd address, and what is decoded there is the halves of two instructions. So the hart is
stopped where such a block would begin; the run clears the bit and goes on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import unicorn.unicorn_const as ucc

from emu.engine import calls

if TYPE_CHECKING:
    from emu.engine.hart import Hart


def watch(hart: Hart) -> None:
    """Stop ``hart`` before a block at an odd address. Call before its first run.

    The engine tells of a block when it is new: whoever clears the bit drops the block, so that
    it is new at each return.
    """

    def on_block(_uc: int, block: int, _previous: int, _data: int) -> None:
        try:
            if calls.Block.from_address(block).pc & 1:
                hart.start_again()
        except BaseException as e:  # nothing may pass through the engine's C frames
            hart.fail(e)

    callback = calls.EDGE_CB(on_block)
    hart.callbacks.append(callback)
    calls.hook(hart.uc, ucc.UC_HOOK_EDGE_GENERATED, callback)
