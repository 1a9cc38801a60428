"""A language graph fed piece by piece, and transformers' answer to the same embeddings."""

from __future__ import annotations

import numpy as np
import pytest

BLOCK = 16
"""Weights that share a scale in the tests' graphs."""


class Stepper:
    """Feeds a graph piece by piece; the cache is passed on as it came back, cut to `length`."""

    def __init__(self, run, shape):
        self.run, self.shape, self.length = run, shape, 0
        empty = np.zeros((1, shape.kv_heads, 0, shape.head_width), dtype=np.float32)
        self.cache = {f"past_key_values.{i}.{kind}": empty for i in range(shape.layers) for kind in ("key", "value")}

    def __call__(self, embeds):
        self.length += embeds.shape[1]
        outputs = self.run({"inputs_embeds": embeds, "seqlens_k": np.array([self.length - 1], dtype=np.int32),
                            "total_sequence_length": np.array(self.length, dtype=np.int32), **self.cache})
        self.cache = {name: outputs[name.replace("past_key_values", "present")] for name in self.cache}
        return outputs

    def truncate(self, length):
        self.length = length
        self.cache = {name: np.ascontiguousarray(array[:, :, :length]) for name, array in self.cache.items()}


def in_pieces(stepper, embeds, sizes):
    """Hidden states of all tokens and the last logits, read in runs of the given sizes."""
    outputs, start = [], 0
    for size in sizes:
        outputs.append(stepper(embeds[:, start:start + size]))
        start += size
    return np.concatenate([o["hidden_states"] for o in outputs], axis=1), outputs[-1]["logits"]


def reference(model, embeds):
    """Hidden states after the final norm and the last logits of a causal model of transformers."""
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        out = model(inputs_embeds=torch.from_numpy(embeds), output_hidden_states=True)
    return out.hidden_states[-1].numpy(), out.logits[:, -1].numpy()


def assert_close(got, expected, bound, what):
    """No number is off by more than the bound."""
    error = np.abs(got - expected)
    assert error.max() <= bound, f"{what}: max {error.max():.2e}, mean {error.mean():.2e}, bound {bound:.0e}"
