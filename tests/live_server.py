"""A real server on a free port, in a thread of the test process; and sounds and pictures to call it with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minicpm_o.api import MiniCPMO
from minicpm_o.server.app import create_app
from minicpm_o.server.config import ServerConfig
from minicpm_o.server.run import in_background
from minicpm_o.server.state import ServerState

RATE_HZ = 24_000


@dataclass(frozen=True)
class Running:
    """Where it listens, and what it shares."""

    address: str
    state: ServerState

    @property
    def base_url(self) -> str:
        return f"{self.address}/v1"

    @property
    def live_url(self) -> str:
        return f"{self.address.replace('http', 'ws', 1)}/v1/realtime"


@contextmanager
def serving(model: MiniCPMO, config: ServerConfig | None = None) -> Iterator[Running]:
    """Serve while the block lasts."""
    config = config or ServerConfig(port=0)
    app = create_app(model, config)
    with in_background(app, config) as address:
        yield Running(address, app.state.server)


def spoken(model: MiniCPMO, *pieces: str | float, noise: float = 1e-3) -> np.ndarray:
    """Texts that are spoken and seconds of quiet, one after the other, as (N,) float32 at 24 kHz."""
    laid = [np.zeros(round(piece * RATE_HZ), np.float32) if isinstance(piece, float) else
            0.8 * model.speak(piece).waveform for piece in pieces]
    whole = np.concatenate(laid)
    hiss = np.random.default_rng(0).normal(0.0, noise, len(whole))
    return np.clip(whole + hiss, -1, 1).astype(np.float32)


def save_camera(path: Path, picture: np.ndarray, seconds: int = 2) -> None:
    """A picture (H, W, 3) uint8 with even sides as a y4m film, which Chromium takes for a camera."""
    import av

    height, width = picture.shape[:2]
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24").reformat(format="yuv420p")
    planes = b"".join(np.frombuffer(bytes(plane), np.uint8).reshape(plane.height, plane.line_size)[:, :plane.width]
                      .tobytes() for plane in frame.planes)
    with path.open("wb") as file:
        file.write(f"YUV4MPEG2 W{width} H{height} F5:1 Ip A1:1 C420jpeg\n".encode())
        for _ in range(5 * seconds):
            file.write(b"FRAME\n" + planes)
