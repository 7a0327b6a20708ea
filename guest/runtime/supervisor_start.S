# The start of an S-mode kernel: a stack, main(hartid, device tree), shutdown.
    .section .text.start, "ax"
    .globl _start
_start:
    .option push
    .option norelax
    la      gp, __global_pointer$
    .option pop
    la      sp, stack_top
    call    main
    call    shutdown
    unimp
