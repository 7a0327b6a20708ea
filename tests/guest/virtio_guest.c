// Drives the disk in virtio's slot 0 in M-mode, as the version that its register shows wants it:
// reads sector 0, writes sector 1 and reads that back. Prints what it found, a word a line.

#define SLOT 0x10001000UL
#define REGISTER(offset) (*(volatile unsigned *)(SLOT + (offset)))
#define PLIC(offset) (*(volatile unsigned *)(0x0c000000UL + (offset)))
#define SIZE 8
#define PAGE 4096

struct descriptor {
    unsigned long address;
    unsigned size;
    unsigned short flags, next;
};

// Of a legacy device: table and driver area in the first page, the device area in the second.
static struct {
    struct descriptor table[SIZE];
    unsigned short flags, index, ring[SIZE];
    char gap[PAGE - SIZE * 16 - 4 - SIZE * 2];
    unsigned short used_flags, used_index;
    struct {
        unsigned id, written;
    } used[SIZE];
} volatile queue __attribute__((aligned(PAGE)));

static struct {
    unsigned kind, reserved;
    unsigned long sector;
} volatile request;
static volatile unsigned char data[512], status;

static void put(char c) {
    *(volatile unsigned char *)0x10000000 = (unsigned char)c;
}

static void say(const char *name, unsigned long value) {
    while (*name) put(*name++);
    put(' ');
    for (int shift = 28; shift >= 0; shift -= 4) put("0123456789abcdef"[value >> shift & 15]);
    put('\n');
}

static void describe(int i, volatile void *address, unsigned size, int flags, int next) {
    queue.table[i].address = (unsigned long)address;
    queue.table[i].size = size;
    queue.table[i].flags = (unsigned short)flags;
    queue.table[i].next = (unsigned short)next;
}

static void transfer(int write, unsigned long sector) {
    request.kind = (unsigned)write;
    request.sector = sector;
    status = 0xff;
    describe(0, &request, 16, 1, 1);
    describe(1, data, 512, write ? 1 : 3, 2);
    describe(2, &status, 1, 2, 0);
    queue.ring[queue.index % SIZE] = 0;
    __sync_synchronize();
    unsigned short before = queue.used_index;
    queue.index++;
    __sync_synchronize();
    REGISTER(0x50) = 0;
    while (queue.used_index == before) {
    }
    while (!(PLIC(0x1000) & 2)) {
    }
    unsigned source = PLIC(0x200004);
    say(write ? "wrote" : "read", (unsigned long)source << 16 | REGISTER(0x60) << 8 | status);
    REGISTER(0x64) = REGISTER(0x60);
    PLIC(0x200004) = source;
}

int main(void) {
    unsigned version = REGISTER(4);
    say("version", version);
    say("device", REGISTER(8));
    PLIC(4) = 1;
    PLIC(0x2000) = 2;
    REGISTER(0x70) = 0;
    REGISTER(0x70) = 1;
    REGISTER(0x70) = 3;
    REGISTER(0x14) = 1;
    say("version 1 feature", REGISTER(0x10) & 1);
    REGISTER(0x24) = 1;
    REGISTER(0x20) = version > 1;
    REGISTER(0x24) = 0;
    REGISTER(0x20) = 0;
    REGISTER(0x70) = 11;
    say("status", REGISTER(0x70));
    REGISTER(0x70) = 15;
    REGISTER(0x30) = 0;
    REGISTER(0x38) = SIZE;
    if (version == 1) {
        REGISTER(0x28) = PAGE;
        REGISTER(0x3c) = PAGE;
        REGISTER(0x40) = (unsigned)((unsigned long)&queue / PAGE);
        say("page", REGISTER(0x40) - (unsigned)((unsigned long)&queue / PAGE));
    } else {
        unsigned long areas[] = {(unsigned long)queue.table, (unsigned long)&queue.flags,
                                 (unsigned long)&queue.used_flags};
        for (unsigned i = 0; i < 3; i++) {
            REGISTER(0x80 + 16 * i) = (unsigned)areas[i];
            REGISTER(0x84 + 16 * i) = (unsigned)(areas[i] >> 32);
        }
        REGISTER(0x44) = 1;
        say("ready", REGISTER(0x44));
    }
    say("sectors", REGISTER(0x100));
    transfer(0, 0);
    for (int i = 0; i < 8; i++) put((char)data[i]);
    put('\n');
    for (int i = 0; i < 512; i++) data[i] = (unsigned char)i;
    transfer(1, 1);
    for (int i = 0; i < 512; i++) data[i] = 0;
    transfer(0, 1);
    say("last", data[511]);
    transfer(0, 1000);
    REGISTER(0x70) = 0;
    say("status", REGISTER(0x70));
    if (version == 1) say("page", REGISTER(0x40));
    return 0;
}
