"""From the model's answers to numbers."""
