# Reset code, at the start of the ROM (0x1000), as QEMU's virt board has it: a0 = hartid,
# a1 = the device tree, a2 = what stands behind this code (a struct fw_dynamic_info where
# firmware is to be told of the next stage), then to the entry point. The board fills in
# the last two words.
    .section .text.start, "ax"
    .globl _start
_start:
    csrr    a0, mhartid
    ld      a1, device_tree
    lla     a2, info
    ld      t0, entry
    jr      t0
    .balign 8
entry:
    .dword  0
device_tree:
    .dword  0
info:
