"""Own ears: a second is read with what came just before it and nothing else."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from minicpm_o.model.config import tiny  # noqa: E402
from minicpm_o.model.encoders.word_ears import WordEars  # noqa: E402
from minicpm_o.model.letters import NUM_CLASSES  # noqa: E402

HEARING = tiny().hearing


@pytest.fixture
def ears() -> WordEars:
    torch.manual_seed(0)
    return WordEars(HEARING, HEARING.words).eval()


def test_alone_is_in_a_batch(ears: WordEars) -> None:
    x = torch.randn(3, 150, HEARING.width)
    with torch.no_grad():
        together = ears(x)
        assert together.shape == (3, 150, NUM_CLASSES)
        torch.testing.assert_close(together[1:2], ears(x[1:2]))


def test_a_second_hears_a_little_back_and_nothing_ahead(ears: WordEars) -> None:
    x = torch.randn(1, 150, HEARING.width)
    with torch.no_grad():
        whole = ears(x)
        for frame, heard_in in ((120, {2}), (60, {1}), (79, {1}), (80, {1, 2}), (10, {0}), (40, {0, 1})):
            changed = x.clone()
            changed[:, frame] += torch.randn(HEARING.width)
            differs = (ears(changed) - whole).abs().amax((0, 2)).reshape(3, 50).amax(1) > 1e-5
            assert set(torch.nonzero(differs).flatten().tolist()) == heard_in, f"frame {frame}"
