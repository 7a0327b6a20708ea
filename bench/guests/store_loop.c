/* Stores into one page through Sv39 tables, from S-mode: prints ticks of `time` per round.
 *
 * Runs alike on pagewalk's bare machine and on `qemu-system-riscv64 -M virt -bios`. The
 * code lies in a gigapage that may be executed but not written, the page that is stored to
 * is mapped on its own, writable but not executable. */
#define UART ((volatile unsigned char *)0x10000000)
#define FINISHER ((volatile unsigned *)0x100000)
#define STORES 100000000ul
#define DATA_VA 0x40000000ul

#define PTE(pa, flags) (((unsigned long)(pa) >> 12 << 10) | (flags))
#define V 1ul
#define R 2ul
#define W 4ul
#define X 8ul
#define AD 0xc0ul

static unsigned long root[512] __attribute__((aligned(4096)));
static unsigned long middle[512] __attribute__((aligned(4096)));
static unsigned long leaf[512] __attribute__((aligned(4096)));
static unsigned long data[512] __attribute__((aligned(4096)));
static unsigned long stack_page[512] __attribute__((aligned(4096)));

static void print_number(unsigned long value)
{
    char digits[24];
    int n = 0;
    do
        digits[n++] = (char)('0' + value % 10);
    while (value /= 10);
    while (n--)
        UART[0] = (unsigned char)digits[n];
    UART[0] = '\n';
}

static unsigned long ticks(void)
{
    unsigned long now;
    __asm__ volatile("rdtime %0" : "=r"(now));
    return now;
}

__attribute__((noreturn)) static void supervisor(void)
{
    for (int round = 0; round < 5; round++) {
        unsigned long count = STORES, start = ticks();
        __asm__ volatile("1: sd %0, 0(%1)\n addi %0, %0, -1\n bnez %0, 1b"
                         : "+r"(count)
                         : "r"(DATA_VA)
                         : "memory");
        print_number(ticks() - start);
    }
    *FINISHER = 0x5555;
    for (;;)
        ;
}

int main(void)
{
    root[0] = PTE(0, V | R | W | AD);                       /* the devices */
    root[1] = PTE(middle, V);                               /* DATA_VA */
    root[2] = PTE(0x80000000, V | R | X | AD);              /* code, not writable */
    middle[0] = PTE(leaf, V);
    leaf[0] = PTE(data, V | R | W | AD);
    leaf[1] = PTE(stack_page, V | R | W | AD);
    __asm__ volatile("csrw pmpaddr0, %0\n csrw pmpcfg0, %1" ::"r"(-1ul), "r"(0x1ful));
    __asm__ volatile("csrw mcounteren, %0" ::"r"(-1ul));
    __asm__ volatile("csrw satp, %0\n sfence.vma" ::"r"(8ul << 60 | (unsigned long)root >> 12));
    __asm__ volatile("csrc mstatus, %0\n csrs mstatus, %1\n csrw mepc, %2\n mv sp, %3\n mret"
                     ::"r"(0x1800ul), "r"(0x800ul), "r"(supervisor), "r"(DATA_VA + 8192));
    return 1;
}
