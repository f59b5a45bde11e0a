"""Many clips over many workers."""
