"""Scripted sessions: wait for text on a console, then type; check what comes back.

A `Script` is a function of the output alone, however it is cut into pieces: so it can drive
our machine, deterministically, and QEMU through a pipe. It knows no time; who feeds it
waits as long as the other side gets on. The sessions for our guests are in `guest.distro.sessions`.
"""

from __future__ import annotations

import os
import re
import selectors
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from guest.boot.progress import CPU_MAX, LOOK_EVERY, HangError, Patience

Check = Callable[[str], str]
"""Of a reply: what is wrong with it, empty when nothing is."""

KEEP_BYTES = 1 << 20
_ESCAPES = re.compile(rb"\x1b\[[0-?]*[ -/]*[@-~]")  # control sequences (ECMA-48, 5.4)
_LINES_SHOWN = 12


@dataclass(frozen=True)
class Step:
    """When ``wait_for`` has come, ``send`` is typed.

    ``check`` sees the reply: the text from there up to the next step's ``wait_for``,
    without the echo of what was typed, control sequences and carriage returns.
    """

    wait_for: bytes
    send: bytes = b""
    check: Check | None = None

    @property
    def name(self) -> str:
        return repr((self.send.strip() or self.wait_for).decode(errors="replace"))


class Script:
    """Goes through ``steps`` as output comes.

    ``keep``: bytes of the transcript, and of one reply, that are kept, the last ones; more
    memory is never taken. A check that fails is noted in ``failures`` and the session goes
    on. Raises ValueError for steps that cannot work.

        script = Script([(b"login: ", b"root\\n"), (b"# ", b"")])
        to_send = script.feed(output)
    """

    def __init__(self, steps: Iterable[Step | tuple[bytes, bytes]], keep: int = KEEP_BYTES) -> None:
        self.steps = tuple(step if isinstance(step, Step) else Step(*step) for step in steps)
        if not self.steps:
            raise ValueError("a script without steps waits for nothing")
        for number, step in enumerate(self.steps, 1):
            if not step.wait_for:
                raise ValueError(f"step {number} waits for nothing")
            if len(step.wait_for) > keep:
                raise ValueError(f"step {number} waits for more than is kept, {keep} bytes")
        if self.steps[-1].check:
            raise ValueError("the last step has a check, but no reply that ends")
        self.at = 0
        """How many steps are behind us."""
        self.failures: list[str] = []
        self.received = 0
        """Bytes of output so far."""
        self._keep = keep
        self._transcript = bytearray()
        self._reply = bytearray()  # since the last step's text
        self._reply_cut = False

    @property
    def done(self) -> bool:
        """Everything waited for has come; what failed on the way is in ``failures``."""
        return self.at == len(self.steps)

    @property
    def passed(self) -> bool:
        return self.done and not self.failures

    @property
    def transcript(self) -> bytes:
        """The last ``keep`` bytes of the output, as they came."""
        return bytes(self._transcript)

    def feed(self, output: bytes) -> bytes:
        """Take output in; the bytes to type now, empty for none."""
        self.received += len(output)
        self._transcript += output
        del self._transcript[: -self._keep]
        send = b""
        self._reply += output
        looked = max(0, len(self._reply) - len(output))
        while not self.done:
            wait_for = self.steps[self.at].wait_for
            found = self._reply.find(wait_for, max(0, looked - len(wait_for) + 1))
            if found < 0:
                break
            # A reply ends at the same place whatever pieces it came in, so it is cut here too.
            cut = self._reply_cut or found > self._keep
            self._check(bytes(self._reply[max(0, found - self._keep) : found]), cut)
            del self._reply[: found + len(wait_for)]
            self._reply_cut = False
            looked = 0
            send += self.steps[self.at].send
            self.at += 1
        if self.done:
            self._reply.clear()
        # The text may have begun: what could be its head is kept beyond the reply's own share.
        elif (more := len(self._reply) - self._keep - len(self.steps[self.at].wait_for)) > 0:
            del self._reply[:more]
            self._reply_cut = True
        return send

    def _check(self, reply: bytes, cut: bool) -> None:
        step = self.steps[self.at - 1]
        if self.at == 0 or step.check is None:
            return
        if cut:
            wrong = f"more than {self._keep} bytes"
        else:
            text = _ESCAPES.sub(b"", reply).replace(b"\r", b"").decode(errors="replace")
            if step.send.endswith(b"\n"):
                text = text.partition("\n")[2]
            wrong = step.check(text)
        if wrong:
            self.failures.append(f"{step.name}: {wrong}")

    def missing(self) -> str:
        """What is waited for, or what failed, with the last lines that came; empty for neither."""
        told = [f"check failed: {failure}" for failure in self.failures]
        if not self.done:
            step = self.steps[self.at]
            before = f" after {self.steps[self.at - 1].name}" if self.at else ""
            told.append(
                f"step {self.at + 1} of {len(self.steps)}{before}: waits for "
                f"{step.wait_for.decode(errors='replace')!r}"
            )
            text = _ESCAPES.sub(b"", self.transcript[-4096:]).decode(errors="replace")
            lines = [line for line in text.replace("\r", "").split("\n") if line.strip()]
            told += [f"  | {line}" for line in lines[-_LINES_SHOWN:]] or ["  | (no output)"]
        return "\n".join(told)


def drive(
    script: Script,
    command: Sequence[str],
    step_done: Callable[[int, float], None] = lambda at, when: None,
    cpu_max: float = CPU_MAX,
) -> int | None:
    """Run ``command`` with its console at the script until it ends.

    ``step_done(steps behind us, seconds since the start)`` is called as the script goes on.
    The exit status; None when it hung, by the rule of `guest.boot.progress`, or took more than
    ``cpu_max`` seconds of processor time, and was killed.
    """
    begun = time.monotonic()
    with (
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as child,
        selectors.DefaultSelector() as selector,
    ):
        assert child.stdin is not None and child.stdout is not None
        selector.register(child.stdout, selectors.EVENT_READ)
        patience = Patience(child.pid, cpu_max)
        try:
            while True:
                patience.ask()
                if not selector.select(LOOK_EVERY):
                    continue
                output = os.read(child.stdout.fileno(), 1 << 16)
                if not output:
                    while child.poll() is None:
                        patience.pause()
                    return child.returncode
                before = script.at
                send = script.feed(output)
                for at in range(before, script.at):
                    step_done(at + 1, time.monotonic() - begun)
                if send:
                    try:
                        child.stdin.write(send)
                        child.stdin.flush()
                    except BrokenPipeError:
                        pass  # it has ended: the rest of its output is still to come
        except HangError:
            return None
        finally:
            if child.poll() is None:
                child.kill()


def equals(text: str) -> Check:
    """A check: the reply, without space around it, is ``text``."""

    def check(reply: str) -> str:
        got = reply.strip()
        return "" if got == text else f"{_short(got)} is not {_short(text)}"

    return check


def contains(*patterns: str) -> Check:
    """A check: each regular expression is found in the reply; ``^`` and ``$`` match at lines."""

    def check(reply: str) -> str:
        for pattern in patterns:
            if not re.search(pattern, reply, re.MULTILINE):
                return f"nothing like {pattern!r} in {_short(reply.strip())}"
        return ""

    return check


def _short(text: str) -> str:
    return repr(text if len(text) <= 200 else f"{text[:100]} ... {text[-100:]}")
