"""Traces: what the hart does, an event at a time, and where it is written."""
