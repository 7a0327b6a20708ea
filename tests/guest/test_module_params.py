"""Module parameters on the command line: what Linux says, and with which error it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from guest_kit import Kernel, load

from emu.stop import StopReason
from guest import build
from guest.image.elf import ElfError
from guest.kernel.params import next_arg

Cli = Callable[..., Result]

SOURCE = """
#include <linux/module.h>
static int number = 1;
static unsigned char small;
static bool flag;
static char *text = "none";
static char four[4];
static int list[2];
static int listed;
module_param(number, int, 0644);
module_param(small, byte, 0644);
module_param(flag, bool, 0644);
module_param(text, charp, 0644);
module_param_string(four, four, sizeof(four), 0644);
module_param_array(list, int, &listed, 0644);
static int __init start(void)
{
    pr_info("%d %u %d %s %s %d,%d/%d\\n", number, small, flag, text, four, list[0], list[1],
            listed);
    return 0;
}
module_init(start);
MODULE_LICENSE("GPL");
"""
EINVAL, ENOSPC, ERANGE = 22, 28, 34


@pytest.fixture
def kernel_log(kernel: Kernel) -> Callable[..., tuple[int, list[str]]]:
    elf = load(build.MODULE, SOURCE)

    def insert(*words: str) -> tuple[int, list[str]]:
        kernel.log.clear()
        stop = kernel.insert(elf, *words)
        assert stop.reason is StopReason.EXIT
        assert isinstance(stop.value, int)
        assert len(kernel.system.modules) == (not stop.value)
        for module in list(kernel.system.modules):
            kernel.system.unload_module(module)
        return stop.value, [line.replace(elf.path.rsplit("/")[-1][:-3], "M") for line in kernel.log]

    return insert


Insert = Callable[..., tuple[int, list[str]]]


@pytest.mark.parametrize(
    ("words", "error", "log"),
    [
        ((), 0, ["1 0 0 none  0,0/0"]),
        (("number=-5", "flag", "text=a b"), 0, ["-5 0 1 a b  0,0/0"]),
        (('text="quoted text"', "four=abc"), 0, ["1 0 0 quoted text abc 0,0/0"]),
        (('"number=7"', "list=1,2"), 0, ["7 0 0 none  1,2/2"]),
        (("number=0x10", "number=010", "text="), 0, ["8 0 0   0,0/0"]),  # the last one counts
        (
            ("nothing=3", "unknown"),
            0,
            [
                "M: unknown parameter 'nothing' ignored",
                "M: unknown parameter 'unknown' ignored",
                "1 0 0 none  0,0/0",
            ],
        ),
        (("number=many",), -EINVAL, ["M: `many' invalid for parameter `number'"]),
        (("number=",), -EINVAL, ["M: `' invalid for parameter `number'"]),
        (("number",), -EINVAL, ["M: `' invalid for parameter `number'"]),
        (("small=256",), -ERANGE, ["M: `256' invalid for parameter `small'"]),
        (("number=2147483648",), -ERANGE, ["M: `2147483648' invalid for parameter `number'"]),
        (("flag=maybe",), -EINVAL, ["M: `maybe' invalid for parameter `flag'"]),
        (
            ("four=abcd",),
            -ENOSPC,
            [
                "four: string doesn't fit in 3 chars.",
                "M: `abcd' too large for parameter `four'",
            ],
        ),
        (
            ("list=1,2,3",),
            -EINVAL,
            ["list: can only take 2 arguments", "M: `1,2,3' invalid for parameter `list'"],
        ),
        (("list=1,x",), -EINVAL, ["M: `1,x' invalid for parameter `list'"]),
    ],
)
def test_words(kernel_log: Insert, words: tuple[str, ...], error: int, log: list[str]) -> None:
    found, lines = kernel_log(*words)
    assert (found, [line.replace("`1\0x'", "`1,x'") for line in lines]) == (error, log)


def test_words_that_do_not_fit(kernel: Kernel) -> None:
    elf = load(build.MODULE, SOURCE)
    before = kernel.counts()
    with pytest.raises(ElfError, match="more than 1024 bytes of parameters"):
        kernel.system.load_module(elf, ["text=" + "x" * 600, "text=" + "y" * 600])
    assert kernel.system.modules == []
    after = kernel.counts()
    assert (after["vm_areas"], after["objects"]) == (before["vm_areas"], before["objects"])


def test_a_setter_that_faults_ends_the_loading(kernel: Kernel) -> None:
    text = SOURCE.replace(
        "module_param(number, int, 0644);",
        """static int set(const char *value, const struct kernel_param *kp)
{
    return *(volatile int *)8;
}
static const struct kernel_param_ops ops = {.set = set};
module_param_cb(number, &ops, &number, 0644);""",
    )
    stop = kernel.insert(load(build.MODULE, text), "number=1")
    assert stop.reason is StopReason.FAULT and stop.trap is not None
    assert (stop.trap.cause, stop.trap.tval) == (13, 8)


def test_on_the_command_line(pagewalk: Cli, tmp_path: Path) -> None:
    path = tmp_path / "my-module.c"
    path.write_text(SOURCE)
    result = pagewalk("run", path, "number=3", "text=hello", "surplus=1")
    assert result.exit_code == 0
    assert [line.partition("] ")[2] for line in result.stdout.splitlines()] == [
        "my_module: unknown parameter 'surplus' ignored",
        "3 0 0 hello  0,0/0",
    ]
    result = pagewalk("run", path, "number=x")
    assert result.exit_code == EINVAL
    assert result.stderr == "pagewalk: the module was refused: bad parameters (-22)\n"


def test_words_are_split_as_linux_does() -> None:
    for text, name, value in (
        ("a=b", "a", "b"),
        ("a", "a", None),
        ("a=", "a", ""),
        ('a="b c"', "a", "b c"),
        ('"a=b c"', "a", "b c"),
        ("a=b=c", "a", "b=c"),
        ('a="', "a", '"'),
        ("", "", None),
    ):
        word = next_arg(text)
        assert (word.name, word.value) == (name, value), text
