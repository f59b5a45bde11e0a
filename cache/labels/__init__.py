"""Annotation rows: reading other people's files, splits, and how a cache keeps them."""
