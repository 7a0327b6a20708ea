/* The smallest U-mode program: says hello and exits with 0. */
#include <pagewalk/user.h>

int main(int argc, char **argv)
{
    printf("Hello from U-mode: main is at %p, my stack at %p\n", (void *)main, (void *)argv);
    for (int i = 1; i < argc; i++)
        printf("argv[%d] = %s\n", i, argv[i]);
    return 0;
}
