"""The machine: QEMU's `virt` board, its clock, its device tree, its devices."""
