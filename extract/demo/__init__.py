"""A synthetic set of clips."""
