# The ways into the kernel and out of it, and from one process to another.
#include "layout.h"

    .macro  each_register operation     # but x10 (a0), which holds the frame's address
    .irp    n, 1,2,3,4,5,6,7,8,9,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    \operation x\n, \n*8(a0)
    .endr
    .endm
    .macro  switch_satp register        # nothing of the other address space stays in the TLB
    sfence.vma
    csrw    satp, \register
    sfence.vma
    .endm

# A page that is mapped at TRAMPOLINE in every address space: here satp changes under the pc.
    .section .trampoline, "ax"
    .globl  trampoline, user_entry, user_return
    .balign PAGE_SIZE
trampoline:
user_entry:                             # a trap from user mode
    csrw    sscratch, a0
    li      a0, FRAME
    each_register sd
    csrr    t0, sscratch
    sd      t0, 10*8(a0)
    csrr    t0, sepc
    sd      t0, 0(a0)
    ld      t0, 32*8(a0)                # kernel_satp
    ld      sp, 33*8(a0)                # kernel_sp
    ld      t1, 34*8(a0)                # handler
    switch_satp t0
    jr      t1

user_return:                            # a0: the process's satp
    switch_satp a0
    li      a0, FRAME
    ld      t0, 0(a0)
    csrw    sepc, t0
    each_register ld
    ld      a0, 10*8(a0)
    sret
    .balign PAGE_SIZE

# A trap in the kernel: as if kernel_trap had been called there, so what a call may change is kept.
    .macro  each_temporary operation
    .irp    n, 1,5,6,7,10,11,12,13,14,15,16,17,28,29,30,31
    \operation x\n, \n*8(sp)
    .endr
    .endm

    .text
    .globl  kernel_entry, switch_context
    .balign 4
kernel_entry:
    addi    sp, sp, -256
    each_temporary sd
    call    kernel_trap
    each_temporary ld
    addi    sp, sp, 256
    sret

    .macro  each_saved operation, base  # in the order of struct context
    \operation ra, 0(\base)
    \operation sp, 8(\base)
    \operation s0, 16(\base)
    \operation s1, 24(\base)
    .irp    n, 2,3,4,5,6,7,8,9,10,11
    \operation s\n, 16+\n*8(\base)
    .endr
    .endm

switch_context:                         # a0: where this one's registers go; a1: the other's
    each_saved sd, a0
    each_saved ld, a1
    ret
