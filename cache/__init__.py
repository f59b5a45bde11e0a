"""The feature cache: its format, its labels, and how to read it. Imports neither stage."""
