"""HTIF: the `tohost` and `fromhost` words by which bare test programs talk to their host.

The words are symbols of the ELF and lie in RAM. What the guest writes into `tohost`:

  bits 63-56  device, 55-48 command, 47-0 payload
  device 0, payload odd       the end; payload >> 1 is the exit code (so 1 is pass)
  device 0, payload even      the PA of eight words: a system call for the host to do
  device 1, command 1         print the byte in the payload

Source: the Berkeley host-target interface as riscv-tests and Spike use it.
"""

from __future__ import annotations

from collections.abc import Callable

from emu.ram import Ram, RamError
from emu.stop import Stop, StopReason

_SYS_WRITE, _SYS_EXIT = 64, 93
_ENOSYS, _EFAULT = 38, 14
_WRITE_SIZE_MAX = 1 << 20  # bytes of one write that are looked at


class Htif:
    """The host's end of the two words at ``tohost`` and ``fromhost`` (PA)."""

    def __init__(
        self, ram: Ram, tohost: int, fromhost: int | None, output: Callable[[bytes], None]
    ) -> None:
        self.tohost = tohost
        self._fromhost = fromhost
        self._ram = ram
        self._output = output

    def poll(self) -> Stop | None:
        """Answer what stands in `tohost`, if anything; a Stop when it was the end."""
        value = self._ram.read64(self.tohost)
        if value == 0:
            return None
        device, command, payload = value >> 56, value >> 48 & 0xFF, value & (1 << 48) - 1
        if device == 0 and payload & 1:
            return self._exit(payload >> 1)
        self._ram.write64(self.tohost, 0)
        stop = None
        if device == 0:
            stop = self._syscall(payload)
            if self._fromhost is not None:
                self._ram.write64(self._fromhost, 1)
        elif device == 1 and command == 1:
            self._output(bytes((payload & 0xFF,)))
        return stop

    def _exit(self, code: int) -> Stop:
        detail = "tohost: pass" if code == 0 else f"tohost: test {code} failed"
        return Stop(StopReason.EXIT, code, detail=detail)

    def _syscall(self, pa: int) -> Stop | None:
        try:
            number, _fd, address, size = (self._ram.read64(pa + 8 * i) for i in range(4))
            if number == _SYS_EXIT:
                return self._exit(_fd)
            result = -_ENOSYS
            if number == _SYS_WRITE:
                try:
                    self._output(self._ram.read(address, min(size, _WRITE_SIZE_MAX)))
                    result = size
                except RamError:
                    result = -_EFAULT
            self._ram.write64(pa, result & (1 << 64) - 1)
        except RamError:
            pass  # a pointer to nowhere: there is nobody to give an answer to
        return None
