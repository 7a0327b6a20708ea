"""Files that hold guests: what one is, what is in it, and where it goes in RAM."""
