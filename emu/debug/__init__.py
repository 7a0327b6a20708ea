"""Looking at a machine: disassembly, symbols, traces, explanations of faults."""
