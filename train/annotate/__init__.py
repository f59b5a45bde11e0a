"""The events found in recordings, as files that people and other programs use."""
