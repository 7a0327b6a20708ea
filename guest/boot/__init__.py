"""Running a guest: the board, the terminal, how it ended."""
