// Does what a table says to the board's registers, in M-mode, and prints what it read.
//
// The table stands at SCRIPT, 16 bytes a step; whoever starts the machine puts it there. One
// line is printed for each step: what it read in hexadecimal, "-" where it does not read, or
// "fault". So one guest asks the same questions of two machines.

#define SCRIPT 0x80200000UL
#define RESULTS 0x80300000UL
#define UART 0x10000000UL

// MIP reads the bits of `value`.
enum { END, READ, WRITE, MIP };

struct step {
    unsigned char operation, size;
    unsigned short unused;
    unsigned int address;
    unsigned long value;
};

static volatile int faulted;

// Skips the access, which is never a compressed instruction.
__attribute__((aligned(4), interrupt("machine"))) static void trapped(void) {
    unsigned long pc;
    faulted = 1;
    __asm__ volatile("csrr %0, mepc" : "=r"(pc));
    __asm__ volatile("csrw mepc, %0" : : "r"(pc + 4));
}

#define LOAD(instruction)                                                                        \
    __asm__ volatile(".option push\n.option norvc\n" instruction " %0, (%1)\n.option pop"        \
                     : "=r"(value) : "r"(address) : "memory")
#define STORE(instruction)                                                                       \
    __asm__ volatile(".option push\n.option norvc\n" instruction " %0, (%1)\n.option pop"        \
                     : : "r"(value), "r"(address) : "memory")

static unsigned long load(unsigned long address, int size) {
    unsigned long value = 0;
    if (size == 1) LOAD("lbu");
    else if (size == 2) LOAD("lhu");
    else if (size == 4) LOAD("lwu");
    else LOAD("ld");
    return value;
}

static void store(unsigned long address, int size, unsigned long value) {
    if (size == 1) STORE("sb");
    else if (size == 2) STORE("sh");
    else if (size == 4) STORE("sw");
    else STORE("sd");
}

static void put(char c) {
    *(volatile unsigned char *)UART = (unsigned char)c;
}

int main(void) {
    volatile unsigned long *result = (unsigned long *)RESULTS;
    const volatile struct step *step = (struct step *)SCRIPT;
    __asm__ volatile("csrw mtvec, %0" : : "r"(trapped));
    for (; step->operation != END; step++) {
        unsigned long value = 0;
        faulted = 0;
        if (step->operation == READ) value = load(step->address, step->size);
        if (step->operation == WRITE) store(step->address, step->size, step->value);
        if (step->operation == MIP) {
            __asm__ volatile("csrr %0, mip" : "=r"(value));
            value &= step->value;
        }
        *result++ = value;
        *result++ = (unsigned long)faulted;
    }
    static const unsigned char plain[][2] = {{1, 0}, {3, 0}, {4, 0}, {2, 7}, {1, 0}};
    for (unsigned i = 0; i < sizeof plain / sizeof *plain; i++)
        *(volatile unsigned char *)(UART + plain[i][0]) = plain[i][1];
    put('@');
    put('\n');
    result = (unsigned long *)RESULTS;
    for (step = (struct step *)SCRIPT; step->operation != END; step++, result += 2) {
        if (result[1])
            for (const char *text = "fault"; *text; text++) put(*text);
        else if (step->operation == READ || step->operation == MIP)
            for (int shift = 60; shift >= 0; shift -= 4)
                put("0123456789abcdef"[result[0] >> shift & 15]);
        else
            put('-');
        put('\n');
    }
    return 0;
}
