"""A W&B server as far as reading runs with wandb 0.31 goes: the GraphQL questions of the real client, answered from
a list of runs. For tests: the client, its wandb-core process and its HTTP are the real ones."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class ServedRun:
    id: str
    name: str
    state: str
    config: dict[str, Any]
    summary: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)  # each with its _step
    created: str = "2026-11-20T10:00:00Z"


def _node(run: ServedRun) -> dict[str, Any]:
    config = {key: {"value": value, "desc": None} for key, value in run.config.items()}
    last = max((row["_step"] for row in run.rows), default=-1)
    nothing = dict.fromkeys(("sweepName", "group", "jobType", "commit", "description", "notes"))
    return {
        **nothing,
        "id": f"internal-{run.id}",
        "name": run.id,
        "displayName": run.name,
        "state": run.state,
        "config": json.dumps(config),
        "summaryMetrics": json.dumps(run.summary),
        "systemMetrics": "{}",
        "tags": [],
        "readOnly": False,
        "createdAt": run.created,
        "heartbeatAt": run.created,
        "historyLineCount": len(run.rows),
        "historyKeys": {"lastStep": last, "keys": {}},
        "user": {"name": "ada", "username": "ada"},
        "projectId": 1,
    }


def _project(runs: list[ServedRun], variables: dict[str, Any]) -> dict[str, Any]:
    after = int(variables.get("cursor") or 0)
    page = runs[after : after + int(variables.get("perPage") or 50)]
    end = after + len(page)
    edges = [{"node": _node(run), "cursor": str(end)} for run in page]
    info = {"endCursor": str(end), "hasNextPage": end < len(runs)}
    listed = {"edges": edges, "pageInfo": info}
    return {"project": {"internalId": "1", "runCount": len(runs), "readOnly": False, "runs": listed}}


def answer(runs: list[ServedRun], question: str, variables: dict[str, Any]) -> dict[str, Any]:
    found = re.search(r"query\s+(\w+)", question)
    name = found.group(1) if found else ""
    if name in ("Viewer", "GetDefaultEntity"):
        viewer = {"id": "1", "entity": "lab", "username": "ada", "email": "", "flags": "{}", "teams": {"edges": []}}
        return {"viewer": viewer}
    if variables.get("project") != "math":
        return {"project": None}
    return _project(runs, variables) if name == "Runs" else {"project": _of_run(runs, name, question, variables)}


def _of_run(runs: list[ServedRun], name: str, question: str, variables: dict[str, Any]) -> dict[str, Any]:
    asked = {variables.get(key) for key in ("name", "run", "runName")}
    wanted = next(run for run in runs if run.id in asked)
    if name == "Run":
        return {"internalId": "1", "run": _node(wanted)}
    if name == "RunHistoryKeys":
        return {"run": {"historyKeys": _node(wanted)["historyKeys"]}}
    if name == "RunParquetHistory":
        live = [{"_step": row["_step"]} for row in wanted.rows]
        return {"run": {"parquetHistory": {"parquetUrls": [], "liveData": live}}}
    if name == "HistoryPage":
        low, high = int(variables["minStep"]), int(variables["maxStep"])
        return {"run": {"history": [json.dumps(row) for row in wanted.rows if low <= row["_step"] < high]}}
    raise AssertionError(f"the client asks what this server does not know: {name}: {question}")


@contextmanager
def serving(runs: list[ServedRun]) -> Iterator[str]:
    """The base URL of a server on this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found: dict[str, Any] = {"data": {}}
            if self.path == "/graphql":
                asked = json.loads(body)
                found = {"data": answer(runs, asked["query"], asked.get("variables") or {})}
            content = json.dumps(found).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
