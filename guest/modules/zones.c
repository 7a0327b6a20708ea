/* Zones: what each holds, and whether its watermarks and counters make sense. */
#include <linux/module.h>

static int __init zones_init(void)
{
    unsigned long total = 0;
    for (unsigned long i = 0; i < vmcore->nr_zones; i++) {
        const struct zone *zone = &vmcore->zones[i];
        if (!zone->managed_pages)
            continue;
        printk("zones: %s: pfn %lx, %lu pages managed, %lu free, min %lu low %lu high %lu\n",
               zone->name, zone->zone_start_pfn, zone->managed_pages, zone->nr_free_pages,
               zone->_watermark[0], zone->_watermark[1], zone->_watermark[2]);
        if (zone->nr_free_pages > zone->managed_pages ||
            zone->_watermark[0] > zone->_watermark[1])
            return -EINVAL;
        total += zone->managed_pages;
    }
    return total && total <= vmcore->ram_size >> PAGE_SHIFT ? 0 : -EINVAL;
}

static void __exit zones_exit(void)
{
}

module_init(zones_init);
module_exit(zones_exit);
MODULE_LICENSE("MIT");
