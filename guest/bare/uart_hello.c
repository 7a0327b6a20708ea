/* A bare M-mode program: prints through the UART's registers and ends by the finisher. */
#define UART ((volatile unsigned char *)0x10000000)
#define LSR_THR_EMPTY 0x20

static void print(const char *text)
{
    for (; *text; text++) {
        while (!(UART[5] & LSR_THR_EMPTY))
            ;
        UART[0] = (unsigned char)*text;
    }
}

int main(void)
{
    print("Hello from M-mode\n");
    return 0;
}
