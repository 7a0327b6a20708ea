# The way from a task into the kernel and back to a task, the same one or another.
#
# sscratch says who runs: in user mode it points to the task's struct frame, in the kernel it
# is zero. The kernel never traps on purpose and runs with interrupts off, so one stack, empty
# at each entry, is enough, and a switch of tasks is no more than the return of another frame.
# Nobody saves sstatus: every trap comes from user mode and goes back there (SPP = 0, SPIE = 1).

    .macro  each_register operation     # but x10 (a0), which holds the frame's address
    .irp    n, 1,2,3,4,5,6,7,8,9,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    \operation x\n, \n*8(a0)
    .endr
    .endm

    .text
    .globl  trap_entry, resume, from_kernel
    .balign 4                           # stvec's low two bits are its mode: 0, one entry for all
trap_entry:
    csrrw   a0, sscratch, a0            # a0 = frame, sscratch = the task's a0
    beqz    a0, from_kernel
    each_register sd
    csrrw   t0, sscratch, zero          # from here on a trap is the kernel's own fault
    sd      t0, 10*8(a0)
    csrr    t0, sepc                    # x0 needs no slot: its place holds the pc
    sd      t0, 0(a0)
    la      sp, stack_top
    call    trap                        # a0 = the frame to go on with
resume:
    ld      t0, 0(a0)
    csrw    sepc, t0
    csrw    sscratch, a0
    each_register ld
    ld      a0, 10*8(a0)
    sret

from_kernel:                            # a bug: say where, and stop
    csrrw   a0, sscratch, a0
    la      sp, stack_top               # the old one may be the reason
    call    kernel_fault
