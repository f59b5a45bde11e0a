"""The attention-fusion model."""
