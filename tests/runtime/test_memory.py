from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from minicpm_o.checkpoints.official_layout import expected_tensors
from minicpm_o.checkpoints.random_official import official_config
from minicpm_o.checkpoints.sizes import bundle_bytes, bundle_part_bytes, parameters, tensors_by_part, torch_part_bytes
from minicpm_o.errors import MemoryPlanError, OptionError
from minicpm_o.runtime.cache import KVCache
from minicpm_o.runtime.memory import (
    MemoryRequest,
    check_memory,
    gigabytes,
    parse_memory,
    plan_memory,
    without_parts,
)

GB = 10**9


@pytest.fixture(scope="module", params=["2.6", "4.5"])
def config(request):
    return official_config(request.param, "full")


def size_of(plan, name):
    return next(line.bytes for line in plan.lines if line.name == name)


def test_every_tensor_is_of_one_part(config):
    parts = tensors_by_part(config)
    named = [name for shapes in parts.values() for name in shapes]
    assert len(named) == len(set(named))
    assert set(expected_tensors(config)) <= set(named)


@pytest.mark.parametrize(("version", "millions"), [
    ("4.5", {"language": 8189.2, "vision": 417.8 + 88.9, "hearing": 307.2 + 21.0, "talker": 347.7}),
    ("2.6", {"language": 7613.0, "vision": 417.8 + 68.6, "hearing": 307.2 + 16.5, "talker": 251.8}),
])
def test_parameters_are_the_published_counts(version, millions):
    parts = tensors_by_part(official_config(version, "full"))
    assert {part: parameters(parts[part]) / 1e6 for part in millions} == pytest.approx(millions, abs=0.11)


def test_torch_takes_every_number(config):
    everything = sum(math.prod(shape) for shape in expected_tensors(config).values())
    sizes = torch_part_bytes(config, 2)
    assert sum(size for part, size in sizes.items() if part != "voice") == 2 * everything


def test_fewer_bits_are_smaller(config):
    four, eight, floats = (bundle_bytes(config, bits, 128) for bits in (4, 8, None))
    assert 0.5 * eight < four < 0.65 * eight and eight < 0.3 * floats
    assert bundle_bytes(config, 4, 32) > four
    assert bundle_part_bytes(config, 4, 128)["vision"] == bundle_part_bytes(config, 8, 128)["vision"]


def test_a_plan_has_all_that_takes_memory(config):
    plan = plan_memory(config, MemoryRequest(context_tokens=2048), 64 * GB)
    assert plan.fits and plan.nearest is None and "it fits" in plan.verdict()
    assert plan.total_bytes == sum(line.bytes for line in plan.lines)
    cache = size_of(plan, "cache of 2048 tokens")
    shape = config.language
    assert cache == KVCache.empty(replace(shape, layers=1), 2048).nbytes * shape.layers
    assert size_of(plan, "language model, weights") + size_of(plan, "word table") == (
        bundle_part_bytes(config, 4, 128)["language"])
    assert all(line.bytes > 0 for line in plan.lines)
    assert f"{gigabytes(plan.total_bytes)} GB" in plan.table()


def test_the_cache_grows_with_the_context(config):
    short, long = (plan_memory(config, MemoryRequest(context_tokens=tokens)) for tokens in (2048, 8192))
    assert size_of(long, "cache of 8192 tokens") == 4 * size_of(short, "cache of 2048 tokens")
    assert long.total_bytes > short.total_bytes


def test_half_the_bytes_in_torch(config):
    full, half = (plan_memory(config, MemoryRequest(backend="torch", dtype=dtype)) for dtype in ("float32", "bfloat16"))
    assert size_of(full, "language model, weights") == 2 * size_of(half, "language model, weights")


def test_a_part_that_is_left_out_takes_nothing(config):
    plan = plan_memory(config, MemoryRequest(vision=False, hearing=False, speech=False))
    names = {line.name for line in plan.lines}
    assert not any(word in name for name in names for word in ("eyes", "ears", "talker", "vocoder"))
    assert without_parts(config, plan.request).vision is None
    assert "without eyes and ears and speech" in plan.verdict()


@pytest.mark.parametrize("gigabytes_there", [4.7, 5.5, 6, 7, 9, 10])
def test_the_nearest_option_fits_and_gives_up_little(config, gigabytes_there):
    available = round(gigabytes_there * GB)
    plan = plan_memory(config, MemoryRequest(bits=8, context_tokens=8192), available)
    if plan.nearest is None:
        smallest = MemoryRequest(bits=4, context_tokens=1024, vision=False, hearing=False, speech=False)
        assert plan_memory(config, smallest, available).total_bytes > available
        return
    assert plan_memory(config, plan.nearest, available).fits
    if plan.nearest.context_tokens < 8192:  # twice the context would have been too much
        longer = replace(plan.nearest, context_tokens=2 * plan.nearest.context_tokens)
        assert not plan_memory(config, longer, available).fits
    if not plan.nearest.speech:  # and so would speech have been, with everything else at its least
        spoken = replace(plan.nearest, bits=4, context_tokens=1024, speech=True)
        assert not plan_memory(config, spoken, available).fits


def test_torch_that_does_not_fit_points_at_a_bundle(config):
    plan = plan_memory(config, MemoryRequest(backend="torch"), 12 * GB)
    assert plan.nearest is not None and plan.nearest.backend == "device"
    assert "an exported bundle" in plan.verdict()


def test_check_refuses_with_the_plan_and_the_option(config):
    with pytest.raises(MemoryPlanError) as caught:
        check_memory(config, MemoryRequest(), 6 * GB)
    text = str(caught.value)
    assert "6.00 GB are available; this fits: 4 bits" in text
    assert "language model, weights" in text and "cache of 4096 tokens" in text and "\n" not in text
    with pytest.raises(MemoryPlanError, match="nothing smaller fits either"):
        check_memory(config, MemoryRequest(), 2 * GB)
    assert check_memory(config, MemoryRequest(), 32 * GB).fits


def test_check_looks_at_this_machine(config, monkeypatch):
    monkeypatch.setattr("minicpm_o.runtime.memory.available_memory_bytes", lambda: 3 * GB)
    with pytest.raises(MemoryPlanError, match=r"3\.00 GB are available"):
        check_memory(config, MemoryRequest())
    monkeypatch.setattr("minicpm_o.runtime.memory.available_memory_bytes", lambda: None)
    assert "does not say" in check_memory(config, MemoryRequest()).verdict()


@pytest.mark.parametrize("request_", [MemoryRequest(context_tokens=0), MemoryRequest(context_tokens=10**6),
                                      MemoryRequest(bits=3)])
def test_requests_that_cannot_be_run_are_refused(config, request_):
    with pytest.raises(OptionError):
        plan_memory(config, request_)


@pytest.mark.parametrize(("text", "size"), [("8GB", 8 * GB), ("7.5 GiB", 15 * 2**29), ("512mb", 512 * 10**6),
                                            ("1000", 1000)])
def test_amounts_of_memory(text, size):
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "GB", "8 apples", "-3GB", "0GB", "0.4B", "9" * 400])
def test_no_amounts_of_memory(text):
    with pytest.raises(OptionError, match="is not an amount of memory"):
        parse_memory(text)


def test_the_table_of_hardware_says_what_the_plans_say():
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "benchmarks/hardware_table.py", "--check"], cwd=root, capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
