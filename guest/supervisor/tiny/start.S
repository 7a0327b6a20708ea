# The first instructions: S-mode, translation and interrupts off, a0 = hart, a1 = device tree (PA).
    .section .text.start, "ax"
    .globl _start
_start:
    la      t0, bss_start               # whoever loaded us need not have cleared it
    la      t1, bss_end
1:  sd      zero, (t0)
    addi    t0, t0, 8
    bltu    t0, t1, 1b
    csrw    sscratch, zero              # "the kernel is running": see entry.S
    la      t0, trap_entry
    csrw    stvec, t0
    la      sp, stack_top
    tail    kernel_main                 # keeps a0 and a1; does not return
