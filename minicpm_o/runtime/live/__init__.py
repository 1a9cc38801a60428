"""Live: what is seen and heard arrives while the answer is being given."""
