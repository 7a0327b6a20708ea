"""Snapshots: a stopped machine as a file, and back."""
