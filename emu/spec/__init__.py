"""The documents as code: words, instructions, CSRs, traps, page tables. No engine, no state."""
