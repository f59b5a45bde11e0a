"""How a cache is laid out on disk: fields, shards, rows, the index, the lock."""
