"""Firmware: the reset code, the M-mode start, and the SBI that Python answers."""
