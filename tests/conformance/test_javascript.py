"""OpenAI's JavaScript client against a real server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from live_server import serving

from minicpm_o.api import MiniCPMO
from minicpm_o.server.config import ServerConfig

PACKAGES = ("openai@6.10.0", "ws@8.18.3")
CLIENT = Path(__file__).with_name("client.mjs")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the client installed. Skips only outside CI where npm has no registry."""
    if shutil.which("npm") is None:
        pytest.skip("Node.js with npm is not installed")
    folder = tmp_path_factory.mktemp("client")
    done = subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", *PACKAGES], cwd=folder,
                          capture_output=True, text=True)
    if done.returncode:
        assert not os.environ.get("CI"), done.stderr
        pytest.skip(f"npm cannot install the client: {done.stderr[-200:]}")
    shutil.copy(CLIENT, folder)
    return folder


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for this machine and its key: the client speaks to live sessions over TLS alone."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
                    "-addext", "subjectAltName=IP:127.0.0.1", "-out", cert, "-keyout", key], check=True,
                   capture_output=True)
    return cert, key


def test_the_javascript_client_is_served_over_tls(model: MiniCPMO, folder: Path,
                                                  certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    with serving(model, ServerConfig(port=0, ssl_certfile=cert, ssl_keyfile=key)) as server:
        done = subprocess.run(["node", CLIENT.name, server.base_url], cwd=folder, capture_output=True, text=True,
                              timeout=120, env={**os.environ, "NODE_EXTRA_CA_CERTS": str(cert)})
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert "Paris" in told["whole"] and told["streamed"].strip() == told["whole"]
    assert told["sound"] > 10_000 and told["refused"] == {"status": 404, "code": "model_not_found"}
    assert "Paris" in told["live"]["text"] and told["live"]["kinds"][0] == "session.created"
