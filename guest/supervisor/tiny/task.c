/* The tasks, and whose turn it is: round robin. */
#include "tiny.h"

static struct task tasks[TASKS];
struct task *current = &tasks[TASKS - 1]; /* so that task 0 comes next */
unsigned long ticks;
static unsigned long switches;

/* Makes a task that will start at USER_BASE with its number in a0. */
void task_create(long number)
{
    tasks[number] = (struct task){
        .frame = {.pc = USER_BASE, .sp = USER_STACK_TOP, .a0 = (unsigned long)number},
        .root = vm_create(), .state = READY, .number = number,
    };
}

static void finish(void)
{
    printf("tiny: %lu ticks, %lu switches\n", ticks, switches);
    for (struct task *task = tasks; task < tasks + TASKS; task++)
        if (task->state != UNUSED)
            printf("tiny: task %ld: %lu runs, %lu times preempted, %s\n", task->number, task->runs,
                   task->preempted, task->state == EXITED ? "exited" : "killed");
    printf("tiny: %ld pages free\n", pages_free); /* as before the tasks */
    shutdown(0);
}

/* Makes the next READY task the current one, in its address space. Without one all is done. */
struct frame *schedule(void)
{
    struct task *next = current;
    do
        next = next == &tasks[TASKS - 1] ? tasks : next + 1;
    while (next->state != READY && next != current);
    if (next->state != READY)
        finish();
    if (next != current) {
        switches++;
        next->runs++;
    }
    current = next;
    vm_switch(next->root);
    return &next->frame;
}

struct frame *task_end(int state)
{
    vm_switch(NULL); /* the task's tables are about to be free pages */
    vm_destroy(current->root);
    current->state = state;
    return schedule();
}
