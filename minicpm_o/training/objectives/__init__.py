"""Losses of the training stages, one a file: a model and a laid-out batch in, a sum and a count out.

None knows files; none knows ranks, except where embeddings are gathered (`contrastive`).
"""
