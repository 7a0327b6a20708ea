"""Guests that other people wrote, fetched from the distribution."""
