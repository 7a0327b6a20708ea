"""Measurements: `python -m bench` prints them all, each as a ratio taken in one run."""
