# The first instructions of a U-mode program: sp points at argc, argv, envp, auxv.
    .section .text.start, "ax"
    .globl _start
_start:
    .option push
    .option norelax
    la      gp, __global_pointer$
    .option pop
    mv      a0, sp
    andi    sp, sp, -16
    mv      s0, zero
    call    user_main
    unimp
