/* Processes: made by fork, ended by exit, run in turn; sleeping on the address of what they wait
 * for. One hart: where interrupts are off nobody else runs, and that is the only lock. */
#include "small.h"

static struct process processes[PROCESSES];
static struct context scheduler;
struct process *current;
static int last_pid;

extern char user_image[], user_rodata[], user_data[], user_image_end[]; /* PAs, see small.ld */
#define USER_STACK PAGE_SIZE

/* A process's first steps: schedule() has switched to it, with interrupts off. */
static void begin(void)
{
    user_resume();
}

static struct process *process_new(void)
{
    struct process *new = NULL;
    for (struct process *p = processes; p < processes + PROCESSES && !new; p++)
        if (p->state == UNUSED)
            new = p;
    if (!new)
        return NULL;
    new->frame = page_alloc();
    new->root = new->frame ? vm_create(new->frame) : NULL;
    if (!new->root) {
        if (new->frame)
            page_free(new->frame);
        return NULL;
    }
    new->pid = ++last_pid;
    new->killed = new->status = 0;
    new->size = 0;
    new->context.ra = (unsigned long)begin;
    new->context.sp = new->stack_top;
    return new;
}

static void process_free(struct process *process)
{
    vm_destroy(process->root, process->size);
    page_free(process->frame);
    process->state = UNUSED;
}

/* Each slot's kernel stack, and the first process, from the image that is linked into the kernel. */
void process_init(void)
{
    for (int i = 0; i < PROCESSES; i++) {
        unsigned long top = FRAME - (unsigned long)i * (STACK_PAGES + 1) * PAGE_SIZE;
        for (unsigned long va = top - STACK_PAGES * PAGE_SIZE; va < top; va += PAGE_SIZE)
            if (vm_map(kernel_root, va, (unsigned long)page_alloc(), PAGE_SIZE, R | W))
                panic("no memory for kernel stacks");
        processes[i].stack_top = top;
    }
    __asm__ volatile("sfence.vma" ::: "memory");

    struct process *first = process_new();
    unsigned long image = (unsigned long)(user_image_end - user_image);
    unsigned long rodata = (unsigned long)(user_rodata - user_image);
    unsigned long data = (unsigned long)(user_data - user_image);
    first->size = image + USER_STACK;
    if (vm_resize(first->root, 0, first->size) != first->size)
        panic("no memory for the first process");
    vm_load(first->root, user_image, 0, rodata, R | X);
    vm_load(first->root, user_image, rodata, data, R);
    vm_load(first->root, user_image, data, image, R | W);
    first->frame->pc = USER_BASE;
    first->frame->sp = USER_BASE + first->size;
    first->state = READY;
}

/* Back to schedule(). Interrupts are off, and are again when this process goes on. */
static void leave(void)
{
    switch_context(&current->context, &scheduler);
}

void schedule(void)
{
    for (;;) {
        int ran = 0;
        for (struct process *p = processes; p < processes + PROCESSES; p++) {
            interrupts_restore(SSTATUS_SIE);
            interrupts_off();
            if (p->state != READY)
                continue;
            ran = 1;
            p->state = RUNNING;
            current = p;
            switch_context(&scheduler, &p->context);
            current = NULL;
        }
        if (!ran) /* interrupts are off: one that is pending by now ends the wait at once */
            __asm__ volatile("wfi");
    }
}

void yield(void)
{
    unsigned long before = interrupts_off();
    current->state = READY;
    leave();
    interrupts_restore(before);
}

void sleep_on(const volatile void *channel)
{
    current->channel = channel;
    current->state = SLEEPING;
    leave();
}

void wake_up(const volatile void *channel)
{
    unsigned long before = interrupts_off();
    for (struct process *p = processes; p < processes + PROCESSES; p++)
        if (p->state == SLEEPING && p->channel == channel)
            p->state = READY;
    interrupts_restore(before);
}

/* The child's pid, -1 where there is no room for one. The child gets 0. */
int process_fork(void)
{
    unsigned long before = interrupts_off();
    struct process *child = process_new();
    if (child && vm_copy(child->root, current->root, current->size)) {
        process_free(child);
        child = NULL;
    }
    if (child) {
        child->size = current->size;
        child->parent = current;
        *child->frame = *current->frame;
        child->frame->a0 = 0;
        child->state = READY;
    }
    interrupts_restore(before);
    return child ? child->pid : -1;
}

void process_exit(int status)
{
    interrupts_off();
    if (current == processes)
        panic("the first process ended");
    for (struct process *p = processes; p < processes + PROCESSES; p++)
        if (p->parent == current)
            p->parent = processes;
    current->status = status;
    current->state = ZOMBIE;
    wake_up(current->parent);
    wake_up(processes); /* to whom its children went */
    leave();
    panic("a process that ended runs");
}

/* Waits until a child has ended; its pid, -1 without children or for one who was killed. */
int process_wait(int *status)
{
    int found = -1;
    unsigned long before = interrupts_off();
    for (;;) {
        int children = 0;
        for (struct process *p = processes; p < processes + PROCESSES && found < 0; p++) {
            if (p->state == UNUSED || p->parent != current)
                continue;
            children++;
            if (p->state == ZOMBIE) {
                found = p->pid;
                *status = p->status;
                process_free(p);
            }
        }
        if (found >= 0 || !children || current->killed)
            break;
        sleep_on(current);
    }
    interrupts_restore(before);
    return found;
}

/* It ends when it next comes to the border of user mode. */
int process_kill(int pid)
{
    int found = -1;
    unsigned long before = interrupts_off();
    for (struct process *p = processes; p < processes + PROCESSES; p++)
        if (p->state != UNUSED && p->state != ZOMBIE && p->pid == pid) {
            p->killed = 1;
            if (p->state == SLEEPING)
                p->state = READY;
            found = 0;
        }
    interrupts_restore(before);
    return found;
}

/* Where the memory ended before, or -1. */
long process_grow(long bytes)
{
    unsigned long old = current->size, new = old + (unsigned long)bytes;
    if (new > RAM_END - RAM || vm_resize(current->root, old, new) != new)
        return -1;
    current->size = new;
    return (long)(USER_BASE + old);
}
