"""A run of a session whose inputs and outputs lie in memory of ours, where they are filled in and read in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


class BoundRun:
    """Inputs and outputs of a session, bound once and run many times."""

    def __init__(self, session: InferenceSession) -> None:
        self._session, self._binding = session, session.io_binding()
        self._kept: dict[str, Any] = {}

    def bind(self, array: np.ndarray, as_input: str | None, as_output: str | None = None) -> None:
        """Bind an array's own memory, in the place of an earlier one: onnxruntime does not copy numpy arrays on a CPU.
        It stays alive as long as it is bound, so that its address is nobody else's. The same memory as input and
        output is written in place."""
        from onnxruntime import OrtValue

        value = self._kept[as_input or str(as_output)] = OrtValue.ortvalue_from_numpy(array)
        if as_input:
            self._binding.bind_ortvalue_input(as_input, value)
        if as_output:
            self._binding.bind_ortvalue_output(as_output, value)

    def bind_cache(self, arrays: Sequence[np.ndarray], layers: int, stem: str = "") -> None:
        """Bind a cache's buffers, key and value of every layer, where the language graphs name them; stem stands before
        the names."""
        names = [f"{layer}.{kind}" for layer in range(layers) for kind in ("key", "value")]
        for name, array in zip(names, arrays, strict=True):
            self.bind(array, f"{stem}past_key_values.{name}", f"{stem}present.{name}")

    def __call__(self) -> None:
        self._session.run_with_iobinding(self._binding)
