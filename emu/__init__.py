"""The machine: RAM, page-table formats, the hart, devices. Knows nothing of memory management."""
