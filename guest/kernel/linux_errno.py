"""Linux's error numbers, as system calls return them negated (asm-generic/errno*.h)."""

from __future__ import annotations

EPERM, ENOENT, ESRCH, EBADF, EAGAIN, ENOMEM, EFAULT = 1, 2, 3, 9, 11, 12, 14
EEXIST, ENODEV, EINVAL, EMFILE, ENOTTY, ESPIPE, ERANGE, ENOSYS = 17, 19, 22, 24, 25, 29, 34, 38
ETIMEDOUT = 110
