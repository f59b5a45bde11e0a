"""A model to hand over: its weights, a card for people, and ONNX for other programs."""
