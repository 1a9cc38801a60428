"""What this machine lets the package use (cores, memory) and the onnxruntime sessions that keep to it.

Honours CPU affinity, cgroup limits (v1 and v2) and hyper-threads; every choice carries its reason in words.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..errors import CheckpointError, OptionError
from ..model.config import LanguageConfig, NanoConfig, OfficialConfig, WhisperEncoderConfig
from .cache import cache_bytes

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, SessionOptions

    from ..checkpoints.bundle import Bundle

SessionKind = Literal["language", "vision", "hearing", "recogniser", "vad", "speech"]

MAX_THREADS = 8
"""Decoding waits for memory, not for cores: more threads than this cost more in waiting than they bring."""

SYSTEM = Path("/sys")
PROCESS = Path("/proc")

PART_FILES: dict[str, tuple[str, ...]] = {
    "language": ("language.onnx", "language.onnx.data", "language_prompts.onnx.data", "embeddings.safetensors"),
    "vision": ("vision.onnx", "vision.onnx.data"),
    "hearing": ("hearing_encoder.onnx", "hearing_encoder.onnx.data", "hearing_projector.onnx",
                "hearing_ears.onnx", "hearing.onnx", "hearing.onnx.data"),
    "recogniser": ("recogniser.onnx", "recogniser.onnx.data", "recogniser_cross.onnx", "recogniser_cross.onnx.data"),
    "vad": ("vad.onnx",),
    "speech": ("speech.onnx", "speech.onnx.data"),
    "talker": ("talker.onnx.data", "talker_embeddings.safetensors", "chattts.onnx.data",
               "chattts_embeddings.safetensors", "dvae.onnx.data"),
    "voice": ("flow_encoder.onnx.data", "flow_decoder.onnx.data", "hift.onnx.data", "vocos.onnx.data"),
}


@dataclass(frozen=True)
class DevicePlan:
    """What will be used, and why."""

    threads: int
    """Threads that work on one operator."""
    provider: str
    """Execution provider of onnxruntime."""
    memory_mb: dict[str, float]
    """Megabytes (1e6 bytes) by "part.kind": weights as on disk, "language.kv_512" for a cache of 512 tokens,
    activations as estimated; "available" is what the machine or the cgroup has left."""
    reasons: tuple[str, ...]


def plan_device(bundle: Bundle | None = None, threads: int | None = None) -> DevicePlan:
    """Choose threads and foresee memory.

    threads: a wish, at least 1. Raises OptionError when it is less.
    """
    chosen, reasons = (_choose_threads() if threads is None else _wished_threads(threads))
    memory_mb = {} if bundle is None else _model_memory(bundle)
    available = available_memory_bytes()
    if available is not None:
        memory_mb["available"] = _mb(available)
        reasons += _memory_warnings(memory_mb)
    return DevicePlan(chosen, "CPUExecutionProvider", memory_mb, (*reasons, "CPU: the graphs are quantised for it"))


def _wished_threads(threads: int) -> tuple[int, tuple[str, ...]]:
    if threads < 1:
        raise OptionError(f"threads is {threads}; it must be 1 or more")
    return threads, (f"{threads} threads as asked",)


def _choose_threads() -> tuple[int, tuple[str, ...]]:
    """The smallest of: allowed logical CPUs, their physical cores, the cgroup's quota, MAX_THREADS."""
    allowed = allowed_cpus()
    limits = {f"{len(allowed)} CPUs are allowed": len(allowed), f"more than {MAX_THREADS} do not help": MAX_THREADS}
    cores = physical_cores(allowed)
    if cores:
        limits[f"they are {cores} physical cores"] = cores
    quota = cgroup_cpus()
    if quota is not None:
        limits[f"the cgroup grants {quota:g} CPUs"] = max(1, int(quota))
    reason, threads = min(limits.items(), key=lambda item: item[1])
    return threads, (f"{threads} threads: {reason}",)


def allowed_cpus() -> frozenset[int]:
    """Logical CPUs that this process may run on."""
    if sys.platform == "linux":
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def physical_cores(cpus: frozenset[int], system: Path = SYSTEM) -> int | None:
    """Cores behind these logical CPUs (two hyper-threads share one); None where the system does not say."""
    topology = [system / f"devices/system/cpu/cpu{cpu}/topology/thread_siblings_list" for cpu in sorted(cpus)]
    if not all(path.is_file() for path in topology):
        return None
    return len({path.read_text().strip() for path in topology})


def processor_kind(process: Path = PROCESS) -> str:
    """What decides which kernels multiply, and so how numbers round: the processor's name and its instructions."""
    lines = (line.partition(":") for line in _text(process / "cpuinfo").splitlines())
    told = {key.strip(): value.strip() for key, _, value in lines}
    known = [told[key] for key in ("model name", "CPU part", "flags", "Features") if key in told]
    return "; ".join([platform.machine(), *(known or [platform.processor()])])


@lru_cache
def overflows(process: Path = PROCESS) -> bool:
    """Whether sums of signed 8-bit products may overflow here: on x86 unless it is known to have VNNI.

    Weights must then be made unsigned, which takes a quarter of the speed where it is not needed.
    """
    return platform.machine().lower() in ("x86_64", "amd64", "i686", "x86") and "vnni" not in processor_kind(process)


def cgroup_cpus(system: Path = SYSTEM, process: Path = PROCESS) -> float | None:
    """CPUs that the cgroup's quota grants; None when there is no quota."""
    quotas = []
    for folder in _cgroup_folders("cpu", system, process):
        quota, period = ([*_words(folder / "cpu.max"), "", ""])[:2]
        if not quota:
            quota, period = _word(folder / "cpu.cfs_quota_us"), _word(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period):
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def available_memory_bytes(system: Path = SYSTEM, process: Path = PROCESS) -> int | None:
    """Memory that may still be taken: the machine's, or the cgroup's if less; None where nobody says."""
    lines = (line.split() for line in _text(process / "meminfo").splitlines())
    found = [int(words[1]) * 1024 for words in lines if words[:1] == ["MemAvailable:"]]
    for folder in _cgroup_folders("memory", system, process):
        limit = _word(folder / "memory.max") or _word(folder / "memory.limit_in_bytes")
        used = _word(folder / "memory.current") or _word(folder / "memory.usage_in_bytes")
        if limit.isdigit() and used.isdigit():
            found.append(max(0, int(limit) - int(used)))
    return min(found, default=None)


def _cgroup_folders(controller: str, system: Path, process: Path) -> Iterator[Path]:
    """This process's folders of a controller (v1: named, v2: unified), innermost first, up to the root's."""
    for line in _text(process / "self/cgroup").splitlines():
        _, controllers, inner = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = system / "fs/cgroup" / (controller if controllers else "")
        folder = root / inner.lstrip("/")
        yield from (path for path in (folder, *folder.parents) if path == root or root in path.parents)


def _text(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def _words(path: Path) -> list[str]:
    return _text(path).split()


def _word(path: Path) -> str:
    return " ".join(_words(path)[:1])


def _mb(num_bytes: float) -> float:
    return round(num_bytes / 1e6, 1)


def _model_memory(bundle: Bundle) -> dict[str, float]:
    """Weights by part, caches by tokens, and the largest activations of a prefill chunk."""
    memory = {f"{part}.weights": _mb(sum(bundle.path(name).stat().st_size for name in names if bundle.has(name)))
              for part, names in PART_FILES.items()}
    language = bundle.config.language
    for tokens in (512, 2048, language.context_tokens):
        memory[f"language.kv_{tokens}"] = _mb(cache_bytes(language, min(tokens, language.context_tokens)))
    memory["language.activations"] = _mb(activation_bytes(language, 512))
    hearing = bundle.config.hearing if isinstance(bundle.config, NanoConfig | OfficialConfig) else None
    if hearing is not None:
        frames = hearing.max_frames if isinstance(hearing, WhisperEncoderConfig) else hearing.max_encoder_frames
        memory["hearing.activations"] = _mb(4 * frames * (frames * hearing.heads + 2 * hearing.ffn + 6 * hearing.width))
    return {name: size for name, size in memory.items() if size}


def activation_bytes(config: LanguageConfig, num_tokens: int) -> int:
    """One layer's live float32 tensors: stream, norm, packed QKV, gate and up, their product; and the logits."""
    attention = (config.heads + 2 * config.kv_heads) * config.head_width
    return 4 * (num_tokens * (4 * config.width + attention + 3 * config.ffn) + config.vocab_size)


def _memory_warnings(memory_mb: dict[str, float]) -> tuple[str, ...]:
    needed = sum(size for name, size in memory_mb.items() if name.endswith(".weights"))
    if needed <= memory_mb["available"]:
        return ()
    return (f"warning: the parts weigh {needed:.0f} MB but {memory_mb['available']:.0f} MB are available",)


def session_options(plan: DevicePlan, *, kind: SessionKind, short_runs: bool = False) -> SessionOptions:
    """Options shared by all graphs of a kind.

    short_runs: all that is asked is so small that the C library finds memory for it quicker than an arena does.
    """
    from onnxruntime import ExecutionMode, GraphOptimizationLevel, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = 1 if kind == "vad" else plan.threads  # its matrices are too small to share out
    options.inter_op_num_threads = 1
    options.execution_mode = ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    # Threads may spin while a run lasts, but not after it: the other parts' threads need the same cores.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if overflows():
        options.add_session_config_entry("session.x64quantprecision", "1")
    if short_runs:
        options.enable_cpu_mem_arena = False
    else:
        share_arena()
        options.add_session_config_entry("session.use_env_allocators", "1")
    return options


@lru_cache(maxsize=1)
def share_arena() -> None:
    """Let all graphs of this process take their working memory from one place, where what one has done with serves the
    next; an arena each holds the largest that each ever needed."""
    import onnxruntime as ort

    where = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(where, ort.OrtArenaCfg({}))


def give_back_memory() -> None:
    """Hand memory that was freed back to the system, where the C library keeps it (glibc)."""
    import ctypes

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def make_session(path: Path, plan: DevicePlan, *, kind: SessionKind, graph: bytes | None = None,
                 short_runs: bool = False) -> InferenceSession:
    """Load a graph, or a part of it that was cut out; short_runs as of `session_options`. Raises CheckpointError when
    the file is missing or onnxruntime refuses it."""
    from onnxruntime import InferenceSession
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    if not Path(path).is_file():
        raise CheckpointError(f"{path} is missing; assemble or export the model again")
    try:
        options = session_options(plan, kind=kind, short_runs=short_runs)
        if graph is not None:  # its large tensors stay in the file beside path
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
        return InferenceSession(graph or str(path), options, providers=[plan.provider])
    except (state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf, state.NoSuchFile,
            state.NotImplemented, state.RuntimeException) as error:
        raise CheckpointError(f"onnxruntime cannot load {path}: {error}") from error
