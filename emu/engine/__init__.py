"""The C that the engine calls, and what builds and loads it."""
