"""Bugs that were reported, and checks that failed: the exit status, --json, and who only looks."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Cli = Callable[..., Result]

SOURCE = r"""
#include <linux/module.h>
#include <linux/slab.h>

static char *how = "";
module_param(how, charp, 0);

#define IS(name) (!strcmp(how, name))

static int __init start(void)
{
    char *a = kmalloc(64, GFP_KERNEL), *b = kmalloc(64, GFP_KERNEL);
    if (!a || !b)
        return -ENOMEM;
    if (IS("clobber")) {
        a[64] = 'X';
        kfree(b);
        b[10] = 'Y';
        pr_info("%px %px\n", a, b);
        return 0;
    }
    if (IS("left"))
        a[-1] = 'Z';
    if (IS("twice"))
        kfree(b);
    if (IS("aba"))
        kfree(a);
    if (IS("inside"))
        kfree(b + 8);
    else
        kfree(b);
    kfree(a);
    if (IS("warn"))
        WARN_ON(1);
    if (IS("page")) {
        struct page *page = alloc_page(GFP_KERNEL);
        __free_page(page);
        __free_page(page);
    }
    if (IS("gfp"))
        kfree(kmalloc(64, GFP_KERNEL | __GFP_DMA | __GFP_DMA32));
    if (IS("huge"))
        kfree(kmalloc(1ul << 40, GFP_KERNEL | __GFP_NOWARN));
    return IS("refused") ? -EIO : 0;
}

static void __exit stop(void)
{
}

module_init(start);
module_exit(stop);
MODULE_LICENSE("GPL");
"""


@pytest.fixture
def module(tmp_path: Path) -> Path:
    path = tmp_path / "guilty.c"
    path.write_text(SOURCE)
    return path


def found(pagewalk: Cli, module: Path, how: str, *options: str) -> tuple[int, list[str]]:
    result = pagewalk("run", "--json", *options, module, f"how={how}")
    outcome = json.loads(result.stdout)
    assert outcome["exit"] == result.exit_code
    return result.exit_code, outcome["bugs"]


BUGS = [
    # how, slub_debug, the bug, the exit status
    ("", "FZP", None, 0),
    ("left", "FZP", r"BUG kmalloc-64 \(Not tainted\): Left Redzone overwritten", 1),
    ("twice", "F", r"BUG kmalloc-64 \(Not tainted\): Object already free", 1),
    ("aba", "F", r"BUG kmalloc-64 \(Not tainted\): Object already free", 1),
    ("inside", "F", r"BUG kmalloc-64 \(Not tainted\): Invalid object pointer 0x\w+", 1),
    ("warn", None, r"WARNING: CPU: 0 PID: 1 at .*guilty\.c:\d+ start\+0x\w+/0x\w+ \[guilty\]", 1),
    ("page", None, "BUG: Bad page state in process insmod  pfn:8....", 1),
    ("gfp", None, None, 0),  # refused, and said so; no bug of the kernel's
    ("huge", None, None, 0),
    ("refused", None, None, 5),  # EIO
    ("left", "P", None, 0),  # nobody looks at red zones
]


@pytest.mark.parametrize(("how", "debug", "bug", "status"), BUGS)
def test_a_bug_makes_the_exit_status(
    pagewalk: Cli, module: Path, how: str, debug: str | None, bug: str | None, status: int
) -> None:
    options = ["--append", f"slub_debug={debug}"] if debug else []
    code, bugs = found(pagewalk, module, how, *options)
    assert code == status
    if bug is None:
        assert bugs == []
    else:
        assert bugs and re.fullmatch(bug, bugs[0]), bugs
    # Whoever only looks.
    code, again = found(pagewalk, module, how, *options, "--no-fail-on-bug")
    assert code == (0 if bug else status)
    assert len(again) == len(bugs)


def test_what_is_said(pagewalk: Cli) -> None:
    result = pagewalk("run", "overflow", "--append", "slub_debug=FZP")
    assert result.exit_code == 1
    assert result.stderr == (
        "pagewalk: a bug was reported: BUG kmalloc-64 (Not tainted): Right Redzone overwritten "
        "(--no-fail-on-bug: exit 0)\n"
    )
    result = pagewalk("run", "overflow", "--append", "slub_debug=FZP", "--no-fail-on-bug")
    assert (result.exit_code, result.stderr) == (0, "")


@pytest.mark.parametrize("slab", ["slub", "slab"])
def test_check_finds_what_nobody_has_freed(pagewalk: Cli, module: Path, slab: str) -> None:
    options = ("--slab", slab, "--keep", "--then", "check", "--append", "slub_debug=FZP")
    result = pagewalk("run", *options, module, "how=clobber")
    assert result.exit_code == 1
    assert result.stderr == ""  # no bug was reported while it ran
    log, _, check = result.stdout.partition("--- check\n")
    a, b = (int(word, 16) for word in log.split("] ")[1].split())
    assert (
        f"Poison of the object at {b:#x} overwritten at {b + 10:#x}, 0x59 instead of 0x6b" in check
    )
    if slab == "slub":
        assert (
            f"kmalloc-64: Right Redzone of the object at {a:#x} overwritten at {a + 64:#x}, "
            "0x58 instead of 0xcc"
        ) in check
    else:  # red words: of SLAB's power-of-two kmalloc caches there is none
        assert f"overwritten at {a + 64:#x}, 0x58 instead of 0x6b" in check
    # It changes nothing, and what is whole is clean.
    quiet = pagewalk("run", *options, module, "how=clobber", "--no-fail-on-bug")
    assert quiet.exit_code == 0
    assert quiet.stdout.partition("--- check\n")[2] == check
    good = pagewalk("run", *options, module)
    assert good.exit_code == 0
    assert "mm.check: clean" in good.stdout


def test_check_finds_slabs_red_words(pagewalk: Cli, tmp_path: Path) -> None:
    path = tmp_path / "own.c"
    path.write_text("""
#include <linux/module.h>
#include <linux/slab.h>
static int __init start(void)
{
    struct kmem_cache *cache = kmem_cache_create("mine", 40, 0, 0, NULL);
    char *object = kmem_cache_alloc(cache, GFP_KERNEL);
    object[40] = 1;
    return 0;
}
module_init(start);
""")
    for slab, word in (("slab", "redzone 2"), ("slub", "Right Redzone")):
        options = ("--slab", slab, "--append", "slub_debug=FZP", "--then", "check", "--keep")
        result = pagewalk("run", *options, path)
        assert result.exit_code == 1
        assert f"mine: {word} of the object at 0x" in result.stdout


@pytest.mark.parametrize(
    ("how", "slab", "text"),
    [
        ("aba", "slub", "freelist cycle in the slab"),
        ("aba", "slab", "an object is there once"),
        ("inside", "slub", "which is no object of it"),
    ],
)
def test_what_linux_lets_through_is_seen_by_the_check(
    pagewalk: Cli, module: Path, how: str, slab: str, text: str
) -> None:
    """Without debugging a, b, a and a pointer into an object go onto the CPU's list unseen."""
    assert found(pagewalk, module, how, "--slab", slab) == (0, [])
    result = pagewalk("run", "--slab", slab, "--then", "check", "--json", module, f"how={how}")
    outcome = json.loads(result.stdout)
    assert (outcome["exit"], outcome["bugs"]) == (1, [])
    assert outcome["then"][0]["clean"] is False and text in outcome["then"][0]["text"]


def test_a_failing_check_after_the_demo(pagewalk: Cli) -> None:
    result = pagewalk("run", "--then", "check", "--json")
    outcome = json.loads(result.stdout)
    assert (result.exit_code, outcome["then"][0]["clean"]) == (0, True)
