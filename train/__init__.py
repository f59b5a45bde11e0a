"""Stage 2: train, evaluate and look into the fusion model. Needs a cache, no media library."""
