"""A model to hand over: weights, what is known of them, a card for people, ONNX for other programs.
"""
