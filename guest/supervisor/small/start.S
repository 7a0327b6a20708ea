# Reset: every hart comes here in M-mode, its number in mhartid, the device tree's PA in a1.
    .section .text.start, "ax"
    .globl _start
_start:
    csrr    a0, mhartid
    bnez    a0, park                    # one hart is enough
    la      t0, bss_start
    la      t1, bss_end
1:  bgeu    t0, t1, 2f
    sd      zero, (t0)
    addi    t0, t0, 8
    j       1b
2:  la      sp, boot_stack_top
    mv      a0, a1
    tail    machine_main                # does not return

park:
    csrw    mie, zero
3:  wfi
    j       3b

# The timer of those who have no Sstc: only M-mode may set mtimecmp, so its interrupt comes here,
# asks for the next one and hands a software interrupt down to S-mode. mscratch points to
# struct timer: room for two registers, mtimecmp's address, ticks from one interrupt to the next.
    .text
    .globl  timer_entry
    .balign 4
timer_entry:
    csrrw   a0, mscratch, a0
    sd      a1, 0(a0)
    sd      a2, 8(a0)
    ld      a1, 16(a0)
    ld      a2, 24(a0)
    ld      a0, 0(a1)
    add     a0, a0, a2
    sd      a0, 0(a1)
    csrwi   sip, 2                      # SSIP; S-mode clears it
    csrr    a0, mscratch                # the a0 of whoever was interrupted
    la      a1, machine_timer
    csrw    mscratch, a1
    ld      a2, 8(a1)
    ld      a1, 0(a1)
    mret
