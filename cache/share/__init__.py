"""Caches between people: merge, pack, push, pull, compare."""
