"""A gdb server: packets, what may be asked, and what the hart answers."""
