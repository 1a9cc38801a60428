"""Threads and memory from what the system says: affinity, cgroups, hyper-threads, wishes."""

from __future__ import annotations

from pathlib import Path

import pytest

from minicpm_o.errors import OptionError
from minicpm_o.runtime import device


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_wish_is_kept_and_said() -> None:
    plan = device.plan_device(threads=3)
    assert plan.threads == 3
    assert "3 threads as asked" in plan.reasons


@pytest.mark.parametrize("threads", [0, -2])
def test_no_threads_are_refused(threads: int) -> None:
    with pytest.raises(OptionError, match="threads"):
        device.plan_device(threads=threads)


@pytest.mark.parametrize(("allowed", "cores", "quota", "expected", "word"), [
    (16, 16, None, device.MAX_THREADS, "do not help"), (4, 2, None, 2, "physical"), (4, None, None, 4, "allowed"),
    (8, 8, 1.5, 1, "cgroup"), (8, 8, 0.2, 1, "cgroup"), (1, 1, 4.0, 1, "allowed"),
])
def test_the_tightest_limit_counts(monkeypatch: pytest.MonkeyPatch, allowed: int, cores: int | None,
                                   quota: float | None, expected: int, word: str) -> None:
    monkeypatch.setattr(device, "allowed_cpus", lambda: frozenset(range(allowed)))
    monkeypatch.setattr(device, "physical_cores", lambda cpus: cores)
    monkeypatch.setattr(device, "cgroup_cpus", lambda: quota)
    plan = device.plan_device()
    assert plan.threads == expected
    assert word in plan.reasons[0]


def test_hyper_threads_share_a_core(tmp_path: Path) -> None:
    name = "devices/system/cpu/cpu{}/topology/thread_siblings_list"
    system = write(tmp_path, {name.format(i): f"{i % 2},{i % 2 + 2}\n" for i in range(4)})
    assert device.physical_cores(frozenset(range(4)), system) == 2
    assert device.physical_cores(frozenset({0, 2}), system) == 1
    assert device.physical_cores(frozenset({0, 7}), system) is None


def test_processors_are_told_apart_by_their_instructions(tmp_path: Path) -> None:
    told = "processor: 0\nmodel name\t: Some CPU\ncpu MHz\t: {}\nflags\t: fpu {}\n"
    lines = {"one": (1000, "avx2"), "later": (3000, "avx2"), "other": (1000, "avx512_vnni")}
    kinds = {name: device.processor_kind(write(tmp_path / name, {"cpuinfo": told.format(*line)}))
             for name, line in lines.items()}
    assert kinds["one"] == kinds["later"] != kinds["other"]
    assert device.processor_kind(tmp_path / "none") and "avx2" in kinds["one"]


def test_cgroup_v2_takes_the_tightest_ancestor(tmp_path: Path) -> None:
    process = write(tmp_path / "proc", {"self/cgroup": "0::/a/b\n", "meminfo": "MemAvailable:  8000000 kB\n"})
    system = write(tmp_path / "sys", {
        "fs/cgroup/a/cpu.max": "150000 100000\n", "fs/cgroup/a/b/cpu.max": "max 100000\n",
        "fs/cgroup/a/memory.max": "1000000\n", "fs/cgroup/a/memory.current": "400000\n",
        "fs/cgroup/a/b/memory.max": "max\n", "fs/cgroup/a/b/memory.current": "1\n"})
    assert device.cgroup_cpus(system, process) == 1.5
    assert device.available_memory_bytes(system, process) == 600_000


def test_cgroup_v1(tmp_path: Path) -> None:
    process = write(tmp_path / "proc", {"self/cgroup": "4:memory:/box\n2:cpu,cpuacct:/box\n1:name=systemd:/box\n"})
    system = write(tmp_path / "sys", {
        "fs/cgroup/cpu/box/cpu.cfs_quota_us": "300000\n", "fs/cgroup/cpu/box/cpu.cfs_period_us": "100000\n",
        "fs/cgroup/memory/box/memory.limit_in_bytes": "5000\n",
        "fs/cgroup/memory/box/memory.usage_in_bytes": "1000\n"})
    assert device.cgroup_cpus(system, process) == 3.0
    assert device.available_memory_bytes(system, process) == 4000


def test_no_limits_where_nothing_is_said(tmp_path: Path) -> None:
    assert device.cgroup_cpus(tmp_path, tmp_path) is None
    assert device.available_memory_bytes(tmp_path, tmp_path) is None


def test_unlimited_quota_is_no_limit(tmp_path: Path) -> None:
    process = write(tmp_path / "proc", {"self/cgroup": "2:cpu:/\n"})
    system = write(tmp_path / "sys", {"fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                                      "fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"})
    assert device.cgroup_cpus(system, process) is None


def test_memory_of_the_parts(nano: Path) -> None:
    from minicpm_o.checkpoints.bundle import Bundle

    memory = device.plan_device(Bundle.open(nano)).memory_mb
    assert {"language.weights", "vision.weights", "hearing.weights", "recogniser.weights", "vad.weights",
            "language.kv_512", "language.activations"} <= set(memory)
    assert all(size > 0 for size in memory.values())


@pytest.mark.parametrize(("machine", "flags", "expected"), [
    ("x86_64", "avx2 avx512_vnni", False), ("AMD64", "avx2 avx_vnni", False), ("x86_64", "avx2", True),
    ("x86_64", None, True), ("aarch64", None, False)])
def test_sums_that_would_overflow_are_made_otherwise(machine: str, flags: str | None, expected: bool, tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    lines = {} if flags is None else {"cpuinfo": f"model name\t: Some CPU\nflags\t: {flags}\n"}
    assert device.overflows(write(tmp_path / "proc", lines)) is expected
    monkeypatch.setattr(device, "overflows", lambda: expected)
    options = device.session_options(device.plan_device(threads=1), kind="speech")
    if expected:
        assert options.get_session_config_entry("session.x64quantprecision") == "1"
    else:
        with pytest.raises(RuntimeError):
            options.get_session_config_entry("session.x64quantprecision")


def test_graphs_share_their_working_memory() -> None:
    plan = device.plan_device(threads=1)
    for kind in ("language", "speech"):
        options = device.session_options(plan, kind=kind)
        assert options.get_session_config_entry("session.use_env_allocators") == "1"
    device.give_back_memory()  # says nothing, where the C library keeps nothing
