# The M-mode part of the firmware, at the start of RAM: hands S-mode what an SBI kernel
# expects and enters it. What traps to M afterwards is answered in Python.
    .section .text.start, "ax"
    .globl _start
_start:
    li      t0, 0xb1ff                  # every exception but ecalls from S and M ...
    csrw    medeleg, t0
    li      t0, 0x222                   # ... and the supervisor's interrupts
    csrw    mideleg, t0
    li      t0, -1
    csrw    mcounteren, t0
    csrw    pmpaddr0, t0                # all of physical memory ...
    li      t0, 0x1f                    # ... read, write, execute (NAPOT)
    csrw    pmpcfg0, t0
    li      t0, 0x1800                  # mstatus.MPP = S
    csrc    mstatus, t0
    li      t0, 0x0800
    csrs    mstatus, t0
    csrw    satp, zero
    ld      t0, next
    csrw    mepc, t0
    mret
    .balign 8
next:
    .dword  0
