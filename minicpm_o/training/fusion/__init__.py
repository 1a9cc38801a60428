"""An ablation: where media should join the language model, asked by questions of who does what to what.

scenes -> batches -> models -> run; `benchmarks/fusion_depth.py` makes the report of it, docs/fusion.md tells it.
"""
