/* The 16550 UART and the console on it.
 *
 * Output of processes goes through a ring: the interrupt "transmitter empty" takes the next byte
 * and wakes whoever waits for room. IIR is never read: a look at the line status says all, as in
 * many kernels. Input is collected into a line, echoed at once, and handed out at its end.
 */
#include "small.h"

#define REGISTER(n) (*(volatile uint8_t *)(UART + (n)))
#define DATA REGISTER(0)
#define IER REGISTER(1) /* interrupt enable */
#define FCR REGISTER(2) /* FIFO control */
#define LCR REGISTER(3) /* line control */
#define LSR REGISTER(5) /* line status */
#define IER_RECEIVED 1
#define IER_TRANSMITTER_EMPTY 2
#define LCR_8_BITS 3
#define LCR_DIVISOR 0x80 /* the first two registers hold the divisor */
#define LSR_RECEIVED 1
#define LSR_TRANSMITTER_EMPTY 0x20

static char out[32];
static unsigned out_head, out_tail; /* written, sent; counted without end */
static char in[128];
static unsigned in_head, in_line, in_tail; /* typed, up to the last whole line, read */

void uart_init(void)
{
    IER = 0;
    LCR = LCR_DIVISOR;
    DATA = 3; /* 38400 baud, for those who have wires */
    IER = 0;
    LCR = LCR_8_BITS;
    FCR = 7; /* on, and both empty */
    IER = IER_RECEIVED | IER_TRANSMITTER_EMPTY;
}

/* Waits for the device, never for a process: for the kernel's own words, and for echo. */
void uart_put_now(char byte)
{
    unsigned long before = interrupts_off();
    if (byte == '\n') {
        while (!(LSR & LSR_TRANSMITTER_EMPTY))
            ;
        DATA = '\r';
    }
    while (!(LSR & LSR_TRANSMITTER_EMPTY))
        ;
    DATA = (uint8_t)byte;
    interrupts_restore(before);
}

/* Interrupts are off. A byte at a time: the transmitter's interrupt comes back for the next. */
static void send(void)
{
    while (out_head != out_tail && LSR & LSR_TRANSMITTER_EMPTY) {
        DATA = (uint8_t)out[out_tail++ % sizeof out];
        wake_up(&out_tail);
    }
}

static void put(char byte)
{
    while (out_head - out_tail == sizeof out)
        sleep_on(&out_tail);
    out[out_head++ % sizeof out] = byte;
    send();
}

void uart_write(const char *bytes, size_t size)
{
    unsigned long before = interrupts_off();
    for (; size--; bytes++) {
        if (*bytes == '\n')
            put('\r');
        put(*bytes);
    }
    interrupts_restore(before);
}

static void typed(char byte)
{
    if (byte == '\r')
        byte = '\n';
    if (byte == 127 || byte == '\b') {
        if (in_head != in_line) {
            in_head--;
            uart_put_now('\b'), uart_put_now(' '), uart_put_now('\b');
        }
        return;
    }
    if (in_head - in_tail == sizeof in) /* nobody reads, or a line without end */
        return;
    uart_put_now(byte);
    in[in_head++ % sizeof in] = byte;
    if (byte == '\n' || in_head - in_tail == sizeof in) {
        in_line = in_head;
        wake_up(&in_line);
    }
}

void uart_interrupt(void)
{
    while (LSR & LSR_RECEIVED)
        typed((char)DATA);
    send();
}

/* Up to the end of a line, which is in it. 0 for a process that was killed. */
size_t console_read(char *line, size_t size)
{
    size_t got = 0;
    unsigned long before = interrupts_off();
    while (in_tail == in_line && !current->killed)
        sleep_on(&in_line);
    while (got < size && in_tail != in_line)
        if ((line[got++] = in[in_tail++ % sizeof in]) == '\n')
            break;
    interrupts_restore(before);
    return got;
}
