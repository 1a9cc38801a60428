"""The same application under Ray Serve: replicas on many machines, more of them under load.

    pip install "minicpm-o[serve,ray]"
    serve run deploy.ray_serve:app                       two replicas, up to eight under load
    python deploy/ray_serve.py --replicas 2 --port 8000  the same without Ray's own command

A WebSocket stays on the replica that accepted it, so a live session keeps its caches. Every replica opens a model of
its own.
"""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

from ray import serve

MODEL = os.environ.get("MINICPM_O_MODEL", "nano")
THREADS = int(os.environ.get("MINICPM_O_THREADS", "2"))
CPUS = float(os.environ.get("MINICPM_O_CPUS", "2"))

def build_app() -> Any:
    """Called by Ray in every replica: a model of its own, and the application over it."""
    from minicpm_o import MiniCPMO
    from minicpm_o.cli.serve import warm_up
    from minicpm_o.server.app import create_app
    from minicpm_o.server.config import ServerConfig

    model = MiniCPMO.from_pretrained(MODEL, threads=THREADS, progress=False)
    warm_up(model)
    key = os.environ.get("MINICPM_O_API_KEY")
    return _named(create_app(model, ServerConfig(host="0.0.0.0", api_keys=(key,) if key else ())), os.getpid())


def _named(app: Any, replica: int) -> Any:
    """The application with a header that says which replica answered."""
    async def named(scope: Any, receive: Any, send: Any) -> None:
        async def marked(message: Any) -> None:
            if message["type"] in ("http.response.start", "websocket.accept"):
                message["headers"] = [*message.get("headers", []), (b"x-replica", str(replica).encode())]
            await send(message)

        await app(scope, receive, marked)

    return named


@serve.deployment(max_ongoing_requests=256, ray_actor_options={"num_cpus": CPUS})
@serve.ingress(build_app)
class Replica:
    """One model and its server."""


def build(replicas: int | None = None, most: int = 8) -> Any:
    """The deployment: a fixed number of replicas, or as many as the load asks for."""
    if replicas is not None:
        return Replica.options(num_replicas=replicas).bind()
    scaling = {"min_replicas": 2, "max_replicas": most, "target_ongoing_requests": 4, "downscale_delay_s": 300}
    return Replica.options(autoscaling_config=scaling).bind()


app = build()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicas", type=int, help="so many, instead of two to eight by load")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    serve.start(http_options={"host": options.host, "port": options.port})
    serve.run(build(options.replicas))
    print(f"served at http://{options.host}:{options.port}", flush=True)
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main()
