"""Samples to learn from: sources of every common form, mixed in fixed shares."""
