"""Is a cache whole? Verify it, repair it, say what is in it."""
