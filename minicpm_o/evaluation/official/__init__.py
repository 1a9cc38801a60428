"""The official arithmetic of published benchmarks, one file each: their files in, their numbers out.

Nothing here asks a model; `judge` asks one to grade. Where the official script gives a number these give the same;
where it crashes they say why.
"""
