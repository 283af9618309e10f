"""Ray clusters that we start refuse clients without the job's random token; the user's own settings are kept."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="needs the extra `cpu` or `gpu`")

from simplerl.cluster import control_channel

SERVER = """
import os, sys, ray
from simplerl.cluster.ray_session import ray_session
with ray_session(cpus=1):
    node = ray._private.worker._global_node
    print(ray.get(ray.remote(lambda: 42).remote()), ray.get_runtime_context().gcs_address, node.get_temp_dir_path(),
          os.environ.get("RAY_AUTH_MODE"), os.environ.get("RAY_AUTH_TOKEN"), flush=True)
    sys.stdin.readline()
"""
CLIENT = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False); print('CONNECTED')"


def environment(**variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    return {**kept, "RAY_NUM_REDIS_GET_RETRIES": "2", **variables}  # seconds for which a client tries to connect


def start(**variables: str) -> tuple[subprocess.Popen[str], list[str]]:
    """Start a cluster in another process. Returns it and what it prints."""
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        env=environment(**variables),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    return server, server.stdout.readline().split()


def stop(server: subprocess.Popen[str]) -> None:
    server.communicate("\n", timeout=60)
    assert server.returncode == 0


def connects(address: str, **variables: str) -> bool:
    command = [sys.executable, "-c", CLIENT, address]
    done = subprocess.run(command, env=environment(**variables), capture_output=True, text=True, check=False)
    return "CONNECTED" in done.stdout


@pytest.mark.slow
def test_a_client_without_the_token_is_refused() -> None:
    server, (result, address, folder, mode, token) = start()
    try:
        assert (result, mode, len(token)) == ("42", "token", 64), "tasks run, and the token has 256 bits"
        assert connects(address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token)
        assert not connects(address, RAY_AUTH_MODE="disabled")
        assert not connects(address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 64)
        files = [path for path in Path(folder).rglob("*") if path.is_file()]
        assert files and not any(token.encode() in path.read_bytes() for path in files), "no file has the token"
        lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
        assert not any(token.encode() in line for line in lines), "no command line has the token"
    finally:
        stop(server)


@pytest.mark.slow
def test_the_users_own_settings_are_kept() -> None:
    server, (result, address, _, mode, token) = start(RAY_AUTH_MODE="disabled")
    try:
        assert (result, mode, token) == ("42", "disabled", "None")
        assert connects(address, RAY_AUTH_MODE="disabled")
    finally:
        stop(server)


def test_the_driver_talks_to_nodes_of_its_allocation_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The messages to the other tasks carry the token."""
    monkeypatch.setenv("SLURM_JOB_ID", str(os.getpid()))
    monkeypatch.setenv("SLURMD_NODENAME", "driver")
    addresses = {"driver": "127.0.0.21", "other": "127.0.0.22"}
    monkeypatch.setattr(control_channel, "node_names", lambda: list(addresses))
    monkeypatch.setattr(control_channel, "node_address", addresses.__getitem__)
    server = control_channel.ControlServer()
    try:
        server.broadcast({"ray": None, "environment": {"RAY_AUTH_TOKEN": "secret"}})
        with socket.create_connection(server._socket.getsockname(), 5, source_address=("127.0.0.99", 0)) as stranger:
            assert stranger.recv(1000) == b""
        monkeypatch.setenv("SLURMD_NODENAME", "other")
        client = control_channel.connect_to_driver(server.address, time.monotonic() + 10)
        assert client is not None
        assert client.next_message(5.0) == {"ray": None, "environment": {"RAY_AUTH_TOKEN": "secret"}}
        client.report_joined(1)
        deadline = time.monotonic() + 5
        while server.joined != {1} and time.monotonic() < deadline:
            time.sleep(0.01)
        assert server.joined == {1}
    finally:
        server.close()
    assert client.next_message(5.0) is None, "the client notices that the driver has ended"
