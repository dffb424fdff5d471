"""`python -m torchqat demo`: float, post-training quantisation and QAT on real digits, each measured as the converted model.

data -> model -> training -> schemes -> experiment -> plots, report; command.py ties them together.
"""
