"""What runs on the machine: guest programs, the kernel in Python, the command line."""
