"""The kernel machine: boot, shipped guests, faults, modules, and the calls they make."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from guest_kit import Kernel, guest, load

import mm
from emu.spec import words as W
from emu.spec.csr import Priv
from emu.spec.paging import MODES, SV39, PagingMode, mode_of_satp, satp_root
from emu.spec.walk import Access, Refusal, Rule, Translation, WalkConfig, walk
from emu.stop import StopReason
from guest import build
from guest.image.elf import ElfError
from guest.kernel.abi import KERNEL_EXTENSION, Call
from guest.kernel.system import System
from mm.addrspace import KERNEL_LINK_ADDR, MODULES_END, MODULES_VADDR

Machines = Callable[..., Kernel]
# Privileged spec 12.4.1: user space is the lower half of 39, 48 or 57 bits.
TASK_SIZE = {"sv39": 1 << 38, "sv48": 1 << 47, "sv57": 1 << 56}
STACK_SIZE = 256 << 10
MODE_FIELD = {"sv39": 8, "sv48": 9, "sv57": 10}


@pytest.fixture(params=list(MODES), ids=str)
def mode(request: pytest.FixtureRequest) -> PagingMode:
    return MODES[request.param]


# boot


@pytest.mark.parametrize("access", ["inside", "public"])
def test_the_hart_itself_switches_translation_on(mode: PagingMode, access: str) -> None:
    system = System(16 << 20, mode, access=access)
    seen: list[tuple[int, int, int]] = []
    calls = system._sbi.extensions[KERNEL_EXTENSION]
    w = system.hart.words

    def watch(call: Call) -> None:
        before = calls[call.value]

        def watched() -> object:
            seen.append((w[W.PC] - 4, w[W.PRIV], w[W.SATP]))
            return before()

        calls[call.value] = watched  # type: ignore[assignment]

    watch(Call.SETUP_VM)
    watch(Call.START_KERNEL)
    system.boot()
    (setup_pc, setup_priv, setup_satp), (start_pc, start_priv, start_satp) = seen
    # The first call comes from a physical address without translation, the second from the
    # kernel's virtual address: only the hart can have got from one to the other.
    assert setup_priv == start_priv == Priv.S
    assert 0x8020_0000 <= setup_pc < 0x8020_3000
    assert setup_satp == 0
    assert KERNEL_LINK_ADDR <= start_pc < KERNEL_LINK_ADDR + 0x3000
    assert start_satp == system.kernel.satp()
    assert start_satp >> 60 == MODE_FIELD[mode.name]
    found = walk(system.machine.ram, mode, satp_root(start_satp), start_pc, Access.EXECUTE)
    assert isinstance(found, Translation)
    assert found.pa - setup_pc == start_pc - setup_pc - KERNEL_LINK_ADDR + 0x8020_0000
    mm.check(system.kernel)
    system.machine.close()


def test_boot_needs_8_mib() -> None:
    with pytest.raises(ValueError, match="at least 8 MiB"):
        System(4 << 20).boot()
    with pytest.raises(ValueError, match="at least 8 MiB"):
        System(4096).boot()


# the shipped guests


def test_hello(mode: PagingMode, machines: Machines) -> None:
    k = machines(mode)
    stop = k.run(guest("hello"), "one", "two words")
    assert (stop.reason, stop.code) == (StopReason.EXIT, 0)
    first, *rest = k.text.splitlines()
    assert first.startswith("Hello from U-mode: main is at 0x100")
    assert f"my stack at {TASK_SIZE[mode.name] - 0x1000 >> 12:#x}" in first
    assert rest == ["argv[1] = one", "argv[2] = two words"]


def test_touch(mode: PagingMode, machines: Machines) -> None:
    k = machines(mode)
    assert k.run(guest("touch")).code == 0
    kinds = ("code", "const", "data", "bss", "stack", "heap")
    assert k.text.splitlines() == [f"{kind}: ok" for kind in kinds]


def test_touch_on_the_public_way(machines: Machines) -> None:
    k = machines(access="public")
    assert k.run(guest("touch")).code == 0
    assert k.text.count("ok") == 6


@pytest.mark.parametrize("access", ["inside", "public"])
def test_shipped_modules(mode: PagingMode, machines: Machines, access: str) -> None:
    k = machines(mode, access=access)
    for name in ("hello_module", "page_struct"):
        module, stop = k.system.load_module(guest(name))
        assert (stop.reason, stop.value) == (StopReason.EXIT, 0)
        assert MODULES_VADDR <= module.base < MODULES_END
        mm.check(k.mm)
        stop = k.system.unload_module(module)
        assert (stop.reason, stop.value) == (StopReason.EXIT, 0)
    assert k.system.modules == []
    assert k.log[0].startswith("hello_module: in S-mode, init at ffffffff0000")
    assert k.log[1] == "hello_module: goodbye"
    assert k.log[-1] == "page_struct: as Python wrote it"


# faults of programs: (way, cause, tval, access, rule), by hand

U_FAULTS = [
    ("read", 13, "mmap", Access.READ, Rule.NOT_READABLE),
    ("write", 15, "constant", Access.WRITE, Rule.NOT_WRITABLE),
    ("write-code", 15, "nothing", Access.WRITE, Rule.NOT_WRITABLE),
    ("execute", 12, "data", Access.EXECUTE, Rule.NOT_EXECUTABLE),
    ("unmapped", 13, 0x2000_0000, Access.READ, Rule.NOT_VALID),
    ("null", 13, 0, Access.READ, Rule.NOT_VALID),
    ("kernel", 13, 0xFFFFFFFF_80000000, Access.READ, Rule.USER_PAGE_NOT_USER),
    ("noncanonical", 13, 0x4000000000000000, Access.READ, Rule.NON_CANONICAL),
    ("guard", 15, "stack", Access.WRITE, Rule.NOT_VALID),
    ("illegal", 2, 0xFFFFFFFF, None, None),
    ("breakpoint", 3, "pc", None, None),
]


@pytest.mark.parametrize(("way", "cause", "tval", "access", "rule"), U_FAULTS)
def test_faults_of_a_program(
    mode: PagingMode,
    machines: Machines,
    way: str,
    cause: int,
    tval: int | str,
    access: Access | None,
    rule: Rule | None,
) -> None:
    k = machines(mode)
    elf = guest("fault")
    stop = k.run(elf, way)
    assert stop.reason is StopReason.FAULT
    trap = stop.trap
    assert trap is not None
    assert (trap.cause, trap.priv, trap.target, trap.interrupt) == (cause, Priv.U, Priv.S, False)
    text = elf.segments[0]
    low = TASK_SIZE[mode.name] - STACK_SIZE
    if tval == "mmap":  # the first page below the stack and its guard
        assert trap.tval == low - (1 << 20) - 4096
    elif tval == "stack":
        assert low - 4096 <= trap.tval < low
    elif tval == "pc":
        assert trap.tval == trap.epc
    elif isinstance(tval, str):
        assert trap.tval == elf.symbol(tval)
    else:
        assert trap.tval == tval
    if way == "execute":
        assert trap.epc == trap.tval
    else:
        assert text.va <= trap.epc < text.end
    assert k.hart.pc == trap.epc
    if access is not None:
        found = k.hart.walk(trap.tval, access)
        assert isinstance(found, Refusal)
        assert (found.rule, found.cause) == (rule, cause)


def test_a_program_that_faults_leaves_the_machine_usable(machines: Machines) -> None:
    k = machines()
    assert k.run(guest("fault"), "null").reason is StopReason.FAULT
    k.system.end_program()
    assert k.run(guest("touch")).code == 0


# faults of modules

S_FAULTS = [
    ("null", 13, 0, Access.READ, Rule.NOT_VALID),
    ("write-code", 15, "fault_init", Access.WRITE, Rule.NOT_WRITABLE),
    ("execute", 12, "heap", Access.EXECUTE, Rule.NOT_EXECUTABLE),
    ("vmcoreinfo", 15, KERNEL_LINK_ADDR, Access.WRITE, Rule.NOT_WRITABLE),
    ("guard", 15, "stack", Access.WRITE, Rule.NOT_VALID),
    ("user", 13, "user", Access.READ, Rule.USER_PAGE_NO_SUM),
]


@pytest.mark.parametrize(("way", "cause", "tval", "access", "rule"), S_FAULTS)
def test_faults_of_a_module(
    mode: PagingMode,
    machines: Machines,
    way: str,
    cause: int,
    tval: int | str,
    access: Access,
    rule: Rule,
) -> None:
    k = machines(mode)
    k.load(guest("hello"))
    elf = guest("fault_module")
    module, stop = k.system.load_module(elf, [way])
    mm.check(k.mm)
    assert stop.reason is StopReason.FAULT
    trap = stop.trap
    assert trap is not None
    assert (trap.cause, trap.priv, trap.target) == (cause, Priv.S, Priv.S)
    stack = k.mm.layout.vmalloc_start  # the first area is the stack
    expected = {
        "fault_init": (elf.symbol("fault_init") or 0) + module.base,
        "user": TASK_SIZE[mode.name] - 64,
    }
    if tval == "stack":
        assert stack - 4096 <= trap.tval < stack
    elif tval == "heap":
        assert trap.tval == trap.epc
        assert k.mm.ksize(trap.tval) == 64
        assert k.ram.read32(k.mm.pa(trap.tval)) == 0x8067  # the `ret` that it may not run
    else:
        assert trap.tval == expected.get(str(tval), tval)
    found = k.hart.walk(trap.tval, access)
    assert isinstance(found, Refusal)
    assert (found.rule, found.cause) == (rule, cause)


def test_s_mode_never_executes_a_user_page(mode: PagingMode, machines: Machines) -> None:
    k = machines(mode)
    process = k.load(guest("hello"))
    k.hart.set_sum(True)  # SUM does not help
    stop = k.system.call(process.entry)
    assert stop.trap is not None
    assert (stop.trap.cause, stop.trap.tval) == (12, process.entry)
    found = k.hart.walk(process.entry, Access.EXECUTE)
    assert isinstance(found, Refusal) and found.rule is Rule.USER_PAGE_EXECUTE


def test_what_the_kernel_says_about_faults(machines: Machines) -> None:
    k = machines()
    stop = k.run(guest("fault"), "guard")
    assert stop.trap is not None
    [note] = k.system.fault_notes(stop.trap)
    assert note.endswith("[stack]")
    overflow = k.system.overflow(stop.trap)
    assert overflow is not None and "beyond the stack's lowest page, 0x3ffffc0000" in overflow
    stop = k.run(guest("fault"), "write")
    assert stop.trap is not None
    [note] = k.system.fault_notes(stop.trap)
    assert note == "vm_area_struct 0x11000-0x12000 r-- fault"
    k.system.end_program()
    stop = k.insert(guest("fault_module"), "null")
    assert stop.trap is not None
    assert k.system.fault_notes(stop.trap) == [
        "Unable to handle kernel NULL pointer dereference at virtual address 0000000000000000"
    ]


# nothing is lost


def test_every_counter_comes_back(mode: PagingMode, machines: Machines) -> None:
    k = machines(mode)

    def round_trip() -> None:
        modules = []
        for name in ("hello_module", "page_struct"):
            module, stop = k.system.load_module(guest(name), ["an argument"])
            assert stop.value == 0
            modules.append(module)
        k.run(guest("touch"))
        k.system.end_program()
        for module in modules:
            assert k.system.unload_module(module).value == 0
        k.run(guest("fault"), "read")
        k.system.end_program()
        assert k.insert(guest("fault_module"), "nonsense").value == -22

    fresh = k.counts()
    round_trip()
    first = k.counts()
    kept = ("objects", "mms", "vmas", "vm_areas", "reserved")
    assert {name: first[name] for name in kept} == {name: fresh[name] for name in kept}
    # What a first use leaves for the next, empty slabs and a direct map cut into small pages
    # for W^X, does not grow.
    for _ in range(3):
        round_trip()
        assert k.counts() == first


def test_a_program_loaded_over_another_does_not_lose_it(machines: Machines) -> None:
    k = machines()
    k.run(guest("hello"))
    k.system.end_program()
    before = k.counts()
    k.load(guest("hello"))
    k.load(guest("touch"))
    k.system.end_program()
    assert k.counts() == before


def test_a_module_whose_init_fails_is_unloaded(machines: Machines) -> None:
    k = machines()
    k.insert(guest("fault_module"), "")
    before = k.counts()
    module, stop = k.system.load_module(guest("fault_module"), ["nonsense"])
    assert (stop.reason, stop.value) == (StopReason.EXIT, -22)
    assert k.system.modules == []
    assert k.mm.find_vm_area(module.base) is None
    assert k.counts() == before
    assert k.log[-1].startswith("fault_module: usage: user|null")
    assert k.system.symbols.address("fault_init") is None


def test_module_pages_are_writable_or_executable_and_text_has_no_writable_alias(
    mode: PagingMode, machines: Machines
) -> None:
    k = machines(mode)
    module, stop = k.system.load_module(guest("page_struct"))
    assert stop.value == 0
    root = satp_root(k.mm.satp())
    kinds = set()
    for va in range(module.base, module.base + module.size, 4096):
        may = {}
        for access in Access:
            found = walk(k.ram, mode, root, va, access)
            may[access] = isinstance(found, Translation)
            pa = found.pa if isinstance(found, Translation) else 0
            assert may[access] == isinstance(
                walk(k.ram, mode, root, va, access, WalkConfig(mxr=True)), Translation
            )
            if access is Access.READ:
                alias = k.mm.va(pa)
        assert may[Access.READ]
        assert not (may[Access.WRITE] and may[Access.EXECUTE])
        through_alias = walk(k.ram, mode, root, alias, Access.WRITE)
        assert isinstance(through_alias, Translation) == may[Access.WRITE]
        assert isinstance(walk(k.ram, mode, root, alias, Access.EXECUTE), Refusal)
        kinds.add((may[Access.WRITE], may[Access.EXECUTE]))
    assert kinds == {(False, True), (False, False), (True, False)}  # text, rodata, data
    # And the hart agrees: its store to the text's alias traps.
    found = walk(k.ram, mode, root, module.base, Access.READ)
    assert isinstance(found, Translation)
    stop = k.insert(load(build.MODULE, POKE), f"{k.mm.va(found.pa):x}")
    assert stop.trap is not None
    assert (stop.trap.cause, stop.trap.tval) == (15, k.mm.va(found.pa))


_ARGUMENT = """
#include <pagewalk/module.h>
extern char module_args[];
static unsigned long hex(const char *p)
{
    unsigned long value = 0;
    for (; *p; p++)
        value = value * 16 + (unsigned long)(*p <= '9' ? *p - '0' : *p - 'a' + 10);
    return value;
}
"""

POKE = (
    _ARGUMENT
    + """
static int start(void)
{
    *(volatile int *)hex(module_args) = 0;
    return 0;
}
module_init(start);
"""
)


# calls of modules

CALLS = """
#include <pagewalk/module.h>
#define ask kernel_call
static void show(const char *what, struct kernel_result r)
{
    printk("%s: %ld %ld\\n", what, r.error, r.value);
}
static int start(void)
{
    static char text[] = "text";
    char *object = kmalloc(100, GFP_KERNEL);
    show("unknown", ask(999, 0, 0));
    show("nop", ask(CALL_NOP, 0, 0));
    show("setup again", ask(CALL_SETUP_VM, 0, 0));
    show("start again", ask(CALL_START_KERNEL, 0, 0));
    show("printk null", ask(CALL_PRINTK, 0, 10));
    show("printk user", ask(CALL_PRINTK, 0x10000, 10));
    show("printk noncanonical", ask(CALL_PRINTK, 1l << 62, 10));
    show("printk past the end", ask(CALL_PRINTK, -1, 10));
    show("printk without arguments", ask(CALL_PRINTK, (long)text, 0));
    show("printk of a bad va_list", ask(CALL_PRINTK, (long)"%d", 8));
    show("kmalloc too big", ask(CALL_KMALLOC, 5l << 20, GFP_KERNEL));
    show("kmalloc absurd", ask(CALL_KMALLOC, -1, GFP_KERNEL));
    show("kmalloc bad gfp", ask(CALL_KMALLOC, 64, -1));
    show("kmalloc 0", ask(CALL_KMALLOC, 0, GFP_KERNEL));
    show("alloc_pages order 11", ask(CALL_ALLOC_PAGES, GFP_KERNEL, 11));
    show("alloc_pages order -1", ask(CALL_ALLOC_PAGES, GFP_KERNEL, -1));
    show("alloc_pages bad gfp", ask(CALL_ALLOC_PAGES, -1, 0));
    show("kfree null", ask(CALL_KFREE, 0, 0));
    show("kfree garbage", ask(CALL_KFREE, 0x123456789abcdef0, 0));
    show("kfree own text", ask(CALL_KFREE, (long)start, 0));
    show("kfree inside", ask(CALL_KFREE, (long)object + 8, 0));
    show("kfree", ask(CALL_KFREE, (long)object, 0));
    show("kfree twice", ask(CALL_KFREE, (long)object, 0));
    show("kfree vmcoreinfo", ask(CALL_KFREE, (long)__va(0x80200000), 0));
    show("free_pages null", ask(CALL_FREE_PAGES, 0, 0));
    show("free_pages reserved", ask(CALL_FREE_PAGES, (long)pfn_to_page(0x80200), 0));
    struct page *page = alloc_pages(GFP_KERNEL, 1);
    show("free_pages absurd order", ask(CALL_FREE_PAGES, (long)page, 1l << 40));
    show("free_pages wrong order", ask(CALL_FREE_PAGES, (long)page, -1));
    show("free_pages not a page", ask(CALL_FREE_PAGES, (long)page + 8, 1));
    show("free_pages", ask(CALL_FREE_PAGES, (long)page, 1));
    show("free_pages twice", ask(CALL_FREE_PAGES, (long)page, 1));
    return 0;
}
static void stop(void) {}
module_init(start);
module_exit(stop);
"""

# SBI error codes: -1 failed, -2 not supported, -3 invalid parameter.
CALL_RESULTS = {
    "unknown": (-2, 0),
    "nop": (0, 0),
    "setup again": (-2, 0),
    "start again": (-2, 0),
    "printk null": (-3, 0),
    "printk user": (-3, 0),
    "printk noncanonical": (-3, 0),
    "printk past the end": (-3, 0),
    "printk without arguments": (0, 4),
    "printk of a bad va_list": (-3, 0),
    "kmalloc too big": (0, 0),
    "kmalloc absurd": (0, 0),
    "kmalloc bad gfp": (-1, 0),
    "kmalloc 0": (0, 16),
    "alloc_pages order 11": (0, 0),
    "alloc_pages order -1": (0, 0),
    "alloc_pages bad gfp": (-1, 0),
    "kfree null": (0, 0),
    "kfree garbage": (-1, 0),
    "kfree own text": (-1, 0),
    "kfree inside": (-1, 0),
    "kfree": (0, 0),
    "kfree twice": (-1, 0),
    "kfree vmcoreinfo": (-1, 0),
    "free_pages null": (-1, 0),
    "free_pages reserved": (-1, 0),
    "free_pages absurd order": (-1, 0),
    "free_pages wrong order": (-1, 0),
    "free_pages not a page": (-1, 0),
    "free_pages": (0, 0),
    "free_pages twice": (-1, 0),
}


def test_calls_with_garbage_are_refused_and_logged(mode: PagingMode, machines: Machines) -> None:
    k = machines(mode)
    module, stop = k.system.load_module(load(build.MODULE, CALLS))
    assert (stop.reason, stop.value) == (StopReason.EXIT, 0), stop
    mm.check(k.mm)
    found = {}
    for line in k.log:
        what, _, rest = line.rpartition(": ")
        if what in CALL_RESULTS:
            error, value = map(int, rest.split())
            found[what] = (error, value)
    assert found == CALL_RESULTS
    log = "\n".join(k.log)
    assert "kfree of 0x123456789abcdef0: not an address of the direct map" in log
    assert log.count("BUG: Bad page state in process swapper") >= 2
    assert k.system.unload_module(module).value == 0


SHUTDOWN = """
#include <pagewalk/module.h>
static int start(void)
{
    register long a0 __asm__("a0") = 0;
    register long a1 __asm__("a1") = 1;
    register long a6 __asm__("a6") = 0;
    register long a7 __asm__("a7") = 0x53525354;
    __asm__ volatile("ecall" : "+r"(a0), "+r"(a1) : "r"(a6), "r"(a7) : "memory");
    return 0;
}
module_init(start);
"""

TO_USER = """
#include <pagewalk/module.h>
static int start(void)
{
    __asm__ volatile("csrc sstatus, %0\\n csrw sepc, %1\\n sret" : : "r"(0x100l), "r"(0x10000l));
    return 0;
}
module_init(start);
"""

MODULE_ASM = """
#include <pagewalk/module.h>
static int start(void)
{
    __asm__ volatile("WHAT" : : "r"(0l));
    return 0;
}
module_init(start);
"""


def test_a_module_may_shut_the_machine_down(machines: Machines) -> None:
    k = machines()
    stop = k.insert(load(build.MODULE, SHUTDOWN))
    assert (stop.reason, stop.code, stop.value) == (StopReason.EXIT, 1, None)


def test_a_module_that_drops_to_user_mode_is_no_process(machines: Machines) -> None:
    k = machines()
    stop = k.insert(load(build.MODULE, TO_USER))
    assert stop.trap is not None
    assert (stop.trap.cause, stop.trap.priv, stop.trap.tval) == (12, Priv.U, 0x10000)


def test_unload_of_a_module_that_faulted(machines: Machines) -> None:
    k = machines()
    module, stop = k.system.load_module(guest("fault_module"), ["null"])
    assert stop.reason is StopReason.FAULT
    assert k.system.modules == [module]  # as Linux: an oops leaves the module
    assert k.system.unload_module(module).value == 0
    assert k.system.modules == []


def test_module_arguments_that_do_not_fit(machines: Machines) -> None:
    k = machines()
    before = k.counts()
    with pytest.raises(ElfError, match="arguments of 1024 bytes, 1024 fit"):
        k.system.load_module(guest("fault_module"), ["x" * 1024])
    after = k.counts()
    assert after["nr_free"] + after["tables"] == before["nr_free"] + before["tables"]
    assert after["vm_areas"] == before["vm_areas"]


def test_a_program_is_no_module(machines: Machines) -> None:
    k = machines()
    before = k.counts()
    with pytest.raises(ElfError, match="linked at 0"):
        k.system.load_module(guest("hello"))
    assert k.counts() == before


def test_modules_with_relocations_and_bss(machines: Machines) -> None:
    text = """
#include <pagewalk/module.h>
static char bss[9000];
static const char *const names[] = {"zero", "one", "two"};
static int (*const functions[])(const char *, ...) = {printk};
static int start(void)
{
    for (unsigned i = 0; i < sizeof bss; i++)
        if (bss[i])
            return -EINVAL;
    for (volatile int i = 0; i < 3; i++)
        functions[0]("%s\\n", names[i]);
    return 0;
}
static void stop(void) {}
module_init(start);
module_exit(stop);
"""
    k = machines()
    elf = load(build.MODULE, text)
    assert len(elf.relative_relocations) >= 3
    assert k.insert(elf).value == 0
    assert k.log == ["zero", "one", "two"]
    assert k.insert(elf).value == 0  # twice at once, at another address
    a, b = k.system.modules
    assert b.base >= a.base + a.size + 4096  # a guard page between them


def test_symbols_name_modules_only_while_they_are_loaded(machines: Machines) -> None:
    k = machines()
    module, _ = k.system.load_module(guest("hello_module"))
    assert k.system.symbols.name(module.init) == "hello_init"
    k.system.unload_module(module)
    assert k.system.symbols.name(module.init) is None


def test_call_returns_a_signed_int(machines: Machines) -> None:
    text = """
#include <pagewalk/module.h>
__attribute__((visibility("default"))) long sum(long a, long b, long c, long d,
                                                 long e, long f, long g, long h)
{
    return a + b + c + d + e + f + g + h;
}
static int start(void) { return 0; }
module_init(start);
"""
    k = machines()
    elf = load(build.MODULE, text)
    module, _ = k.system.load_module(elf)
    at = module.base + (elf.symbol("sum") or 0)
    assert k.system.call(at, 1, 2, 3, 4, 5, 6, 7, 8).value == 36
    assert k.system.call(at, -1, 0, 0, 0, 0, 0, 0, 0).value == -1
    assert k.system.call(at, 0x80000000, 0, 0, 0, 0, 0, 0, 0).value == -(1 << 31)


def test_satp_carries_the_mode_and_a_fresh_asid(mode: PagingMode, machines: Machines) -> None:
    k = machines(mode)
    process = k.load(guest("hello"))
    satp = k.mm.satp(process.mm)
    assert k.hart.satp == satp
    assert mode_of_satp(satp) is mode
    assert satp >> 44 & 0xFFFF == process.mm.asid != 0
    assert mode is not SV39 or satp >> 60 == 8
