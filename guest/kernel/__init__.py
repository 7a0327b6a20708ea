"""The kernel machine above `mm`: modules, programs, system calls, printk."""
