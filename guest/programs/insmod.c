/* The process in whose address space modules are loaded, as insmod is on Linux. */
int main(void)
{
    return 0;
}
