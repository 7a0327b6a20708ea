"""CSR numbers and fields (RISC-V privileged spec 20240411, chapters 2, 3 and 12)."""

from __future__ import annotations

from enum import IntEnum


class Priv(IntEnum):
    """Privilege levels (table 1 of the privileged spec)."""

    U = 0
    S = 1
    M = 3


PRIV_NAMES = {0: "U", 1: "S", 2: "reserved", 3: "M"}

FCSR = 0x003
# Supervisor
SSTATUS = 0x100
SIE = 0x104
STVEC = 0x105
SCOUNTEREN = 0x106
SENVCFG = 0x10A
SSCRATCH = 0x140
SEPC = 0x141
SCAUSE = 0x142
STVAL = 0x143
SIP = 0x144
STIMECMP = 0x14D
SATP = 0x180
# Machine
MSTATUS = 0x300
MISA = 0x301
MEDELEG = 0x302
MIDELEG = 0x303
MIE = 0x304
MTVEC = 0x305
MCOUNTEREN = 0x306
MENVCFG = 0x30A
MCOUNTINHIBIT = 0x320
MSCOUNTEREN = 0x321  # privileged spec 1.9
MINSTRETCFG = 0x322
MHPMEVENT3 = 0x323
MSCRATCH = 0x340
MEPC = 0x341
MCAUSE = 0x342
MTVAL = 0x343
MIP = 0x344
PMPCFG0 = 0x3A0
PMPADDR0 = 0x3B0
TSELECT = 0x7A0
MCYCLE = 0xB00
MINSTRET = 0xB02
MHPMCOUNTER3 = 0xB03
CYCLE = 0xC00
TIME = 0xC01
INSTRET = 0xC02
MHARTID = 0xF14
MCONFIGPTR = 0xF15

NAMES = {
    number: name.lower()
    for name, number in list(globals().items())
    if name.isupper() and isinstance(number, int) and number >= SSTATUS
}
NUMBERS = {name: number for number, name in NAMES.items()}

# mstatus fields (figure 7)
MSTATUS_SIE = 1 << 1
MSTATUS_MIE = 1 << 3
MSTATUS_SPIE = 1 << 5
MSTATUS_MPIE = 1 << 7
MSTATUS_SPP = 1 << 8
MSTATUS_MPP_SHIFT = 11
MSTATUS_MPP = 3 << MSTATUS_MPP_SHIFT
MSTATUS_FS = 3 << 13
MSTATUS_FS_INITIAL = 1 << 13
MSTATUS_FS_DIRTY = 3 << 13
MSTATUS_XS = 3 << 15
MSTATUS_MPRV = 1 << 17
MSTATUS_SUM = 1 << 18
MSTATUS_MXR = 1 << 19
MSTATUS_TVM = 1 << 20
MSTATUS_TW = 1 << 21
MSTATUS_TSR = 1 << 22
MSTATUS_UXL_64 = 2 << 32
MSTATUS_SXL_64 = 2 << 34
MSTATUS_UXL = 3 << 32
MSTATUS_SD = 1 << 63
# The fields of mstatus that sstatus shows (section 12.1.1), XS and SD among them.
SSTATUS_MASK = (
    MSTATUS_SIE | MSTATUS_SPIE | MSTATUS_SPP | MSTATUS_FS | MSTATUS_XS
    | MSTATUS_SUM | MSTATUS_MXR | MSTATUS_UXL | MSTATUS_SD
)  # fmt: skip
# What can be written of mstatus; SXL and UXL are 2, and XS and SD are derived.
MSTATUS_WRITABLE = (
    MSTATUS_SIE | MSTATUS_MIE | MSTATUS_SPIE | MSTATUS_MPIE | MSTATUS_SPP | MSTATUS_MPP
    | MSTATUS_FS | MSTATUS_MPRV | MSTATUS_SUM | MSTATUS_MXR | MSTATUS_TVM | MSTATUS_TW
    | MSTATUS_TSR
)  # fmt: skip


def with_sd(status: int) -> int:
    """``status`` with SD as FS and XS have it (section 3.1.6.6)."""
    dirty = status & MSTATUS_FS == MSTATUS_FS or status & MSTATUS_XS == MSTATUS_XS
    return status | MSTATUS_SD if dirty else status & ~MSTATUS_SD


# menvcfg and senvcfg fields (section 3.1.18)
MENVCFG_FIOM = 1 << 0
MENVCFG_ADUE = 1 << 61
MENVCFG_PBMTE = 1 << 62
MENVCFG_STCE = 1 << 63

# mip and mie bits (section 3.1.9)
IRQ_SSI = 1
IRQ_MSI = 3
IRQ_STI = 5
IRQ_MTI = 7
IRQ_SEI = 9
IRQ_MEI = 11
# "decreasing priority order: MEI, MSI, MTI, SEI, SSI, STI" (section 3.1.9)
IRQ_PRIORITY = (IRQ_MEI, IRQ_MSI, IRQ_MTI, IRQ_SEI, IRQ_SSI, IRQ_STI)
# Exceptions that can be delegated: all that exist but the ecall from M, which can come from
# nowhere below it (section 3.1.8).
MEDELEG_WRITABLE = 0xB3FF
S_INTERRUPTS = 1 << IRQ_SSI | 1 << IRQ_STI | 1 << IRQ_SEI
M_INTERRUPTS = 1 << IRQ_MSI | 1 << IRQ_MTI | 1 << IRQ_MEI
# Those that a device drives, whatever software writes (section 3.1.9); STIP is one with Sstc.
WIRES = 1 << IRQ_MSI | 1 << IRQ_MTI | 1 << IRQ_SEI | 1 << IRQ_MEI
