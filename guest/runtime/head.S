# The kernel's first instructions, in S-mode, entered by firmware with translation off.
#
# The kernel itself is Python: it is asked, once, to build the memory manager; it returns a
# satp. Translation is then switched on by the hart: the next fetch, at a physical address
# that is not mapped, faults, and stvec holds the virtual address to go on at (as Linux's
# relocate_enable_mmu does it). From START_KERNEL on Python holds the S level.
#include <pagewalk/abi.h>

    .section .text.start, "ax"
    .globl _start
_start:
    csrw    sie, zero
    lla     s0, _start                  # PA now
    li      a7, KERNEL_EXTENSION
    li      a6, CALL_SETUP_VM
    ecall                               # a1 = satp
    ld      t1, link_address
    sub     t1, t1, s0                  # VA - PA of the image
    lla     t0, 1f
    add     t0, t0, t1
    csrw    stvec, t0
    sfence.vma
    csrw    satp, a1
    nop                                 # never reached at this address
    .balign 4
1:
    li      a7, KERNEL_EXTENSION
    li      a6, CALL_START_KERNEL
    ecall
    unimp

# Where a function that Python called returns to: a0 holds its result.
    .globl kernel_return
    .balign 4
kernel_return:
    li      a7, KERNEL_EXTENSION
    li      a6, CALL_RETURN
    ecall
    unimp

    .balign 8
link_address:
    .dword  _start
