/* A virtio block device in the first slot, one request at a time (virtio 1.2: 2.7, 4.2, 5.2).
 *
 * Version 1 (legacy, 4.2.4) is told one page number, and finds all three parts of the queue behind
 * it; version 2 is told three addresses. All else is the same. */
#include "small.h"

#define REGISTER(offset) (*(volatile uint32_t *)(DISK + (offset)))
#define MAGIC REGISTER(0x000)
#define VERSION REGISTER(0x004)
#define DEVICE_ID REGISTER(0x008)
#define DRIVER_FEATURES REGISTER(0x020)
#define DRIVER_FEATURES_SELECT REGISTER(0x024)
#define GUEST_PAGE_SIZE REGISTER(0x028) /* version 1 */
#define QUEUE_SELECT REGISTER(0x030)
#define QUEUE_SIZE_MAX REGISTER(0x034)
#define QUEUE_SIZE REGISTER(0x038)
#define QUEUE_PFN REGISTER(0x040) /* version 1 */
#define QUEUE_READY REGISTER(0x044)
#define QUEUE_NOTIFY REGISTER(0x050)
#define INTERRUPT_STATUS REGISTER(0x060)
#define INTERRUPT_ACK REGISTER(0x064)
#define STATUS REGISTER(0x070)
#define QUEUE_ADDRESS(part) ((volatile uint32_t *)(DISK + 0x080 + 0x10 * (part))) /* low, high */
#define CAPACITY REGISTER(0x100) /* in sectors; the low half */

enum { ACKNOWLEDGE = 1, DRIVER = 2, DRIVER_OK = 4, FEATURES_OK = 8 };
enum { BLOCK_DEVICE = 2, VERSION_1 = 1 /* feature bit 32 */ };
enum { NEXT = 1, DEVICE_WRITES = 2 };
#define SLOTS 8

struct descriptor {
    uint64_t pa;
    uint32_t size;
    uint16_t flags, next;
};

/* Two pages, as version 1 wants it: descriptors and what is available, then what was used. */
static struct {
    struct descriptor descriptors[SLOTS];
    uint16_t available_flags, available_index, available[SLOTS];
    uint16_t used_flags __attribute__((aligned(PAGE_SIZE)));
    uint16_t used_index;
    struct {
        uint32_t id, size;
    } used[SLOTS];
} volatile queue __attribute__((aligned(PAGE_SIZE)));

static volatile struct {
    uint32_t type, reserved;
    uint64_t sector;
} request;
static volatile uint8_t status;
static uint16_t used_seen;
static int is_busy, is_done;
static uint32_t version;
static unsigned long sectors; /* 0: no disk */

void disk_init(void)
{
    version = VERSION;
    if (MAGIC != 0x74726976 || DEVICE_ID != BLOCK_DEVICE || version < 1 || version > 2) {
        printf("small: no disk in the first virtio slot\n");
        return;
    }
    STATUS = 0;
    STATUS = ACKNOWLEDGE;
    STATUS = ACKNOWLEDGE | DRIVER;
    DRIVER_FEATURES_SELECT = 0; /* none of the block device's own is needed */
    DRIVER_FEATURES = 0;
    if (version == 2) {
        DRIVER_FEATURES_SELECT = 1;
        DRIVER_FEATURES = VERSION_1;
        STATUS = ACKNOWLEDGE | DRIVER | FEATURES_OK;
        if (!(STATUS & FEATURES_OK))
            panic("the disk wants other features");
    }
    QUEUE_SELECT = 0;
    if (QUEUE_SIZE_MAX < SLOTS)
        panic("the disk's queue is too short");
    if (version == 1) { /* QueueAlign is left alone: it is a page from the beginning */
        GUEST_PAGE_SIZE = PAGE_SIZE;
        QUEUE_SIZE = SLOTS;
        QUEUE_PFN = (uint32_t)((unsigned long)&queue / PAGE_SIZE);
    } else {
        volatile void *parts[] = {&queue.descriptors, &queue.available_flags, &queue.used_flags};
        QUEUE_SIZE = SLOTS;
        for (int i = 0; i < 3; i++) {
            QUEUE_ADDRESS(i)[0] = (uint32_t)(unsigned long)parts[i];
            QUEUE_ADDRESS(i)[1] = (uint32_t)((unsigned long)parts[i] >> 32);
        }
        QUEUE_READY = 1;
    }
    STATUS |= DRIVER_OK;
    sectors = CAPACITY;
    printf("small: virtio disk, version %ld, %ld sectors\n", (long)version, (long)sectors);
}

/* One sector to or from `buffer`, a PA. 0, or -1 if there is no such sector or the device fails. */
int disk_move(unsigned long sector, void *buffer, int write)
{
    if (sector >= sectors)
        return -1;
    unsigned long before = interrupts_off();
    while (is_busy)
        sleep_on(&is_busy);
    is_busy = 1;
    is_done = 0;
    request.type = write ? 1 : 0;
    request.sector = sector;
    status = 0xff;
    queue.descriptors[0] = (struct descriptor){(uint64_t)&request, sizeof request, NEXT, 1};
    queue.descriptors[1] = (struct descriptor){
        (uint64_t)buffer, SECTOR, (uint16_t)(write ? NEXT : NEXT | DEVICE_WRITES), 2};
    queue.descriptors[2] = (struct descriptor){(uint64_t)&status, 1, DEVICE_WRITES, 0};
    queue.available[queue.available_index % SLOTS] = 0;
    __sync_synchronize();
    queue.available_index++;
    __sync_synchronize();
    QUEUE_NOTIFY = 0;
    while (!is_done)
        sleep_on(&is_done);
    int failed = status != 0;
    is_busy = 0;
    wake_up(&is_busy);
    interrupts_restore(before);
    return failed ? -1 : 0;
}

/* With version 1 the interrupt is not acknowledged: the first course kernels left that out, and it
 * worked, for QEMU's device raises its line anew for each request that is done. */
void disk_interrupt(void)
{
    if (version == 2)
        INTERRUPT_ACK = INTERRUPT_STATUS & 3;
    __sync_synchronize();
    for (; used_seen != queue.used_index; used_seen++) {
        is_done = 1;
        wake_up(&is_done);
    }
}
