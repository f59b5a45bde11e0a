"""Decode one clip: a waveform and the chosen frames, on one clock."""
