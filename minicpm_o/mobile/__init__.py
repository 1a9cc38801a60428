"""Nano for phones: graphs in the format of ORT mobile, a short example in Kotlin or Swift, the operators it takes."""
