"""`python -m minicpm_o.training.fusion`."""

from .run import main

main()
