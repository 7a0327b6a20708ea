# The start of a bare C program: a stack, main, then the test finisher with main's result.
    .section .text.start, "ax"
    .globl _start
_start:
    .option push
    .option norelax
    la      gp, __global_pointer$
    .option pop
    la      sp, stack_top
    li      t0, 0x2000                  # mstatus.FS = Initial
    csrs    mstatus, t0
    call    main
    li      t0, 0x100000                # the finisher
    slli    t1, a0, 16
    li      t2, 0x3333
    or      t1, t1, t2
    bnez    a0, 1f
    li      t1, 0x5555
1:  sw      t1, 0(t0)
2:  wfi
    j       2b
