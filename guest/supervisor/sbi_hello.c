/* An S-mode kernel that talks to the firmware: SBI version, console, shutdown. */
#include <pagewalk/sbi.h>

int main(long hartid)
{
    long version = sbi_call(SBI_EXT_BASE, 0, 0, 0, 0).value;
    printf("S-mode on hart %ld over SBI %ld.%ld\n", hartid, version >> 24, version & 0xffffff);
    return 0;
}
