"""Run folders: weights, records, results, and which code made them."""
