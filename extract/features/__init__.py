"""From decoded media to features."""
