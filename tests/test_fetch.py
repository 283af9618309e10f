"""Published files are fetched once, checked, and resumed, from a local server in place of GitHub."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from simplerl.data import fetch
from simplerl.data.readers import read_file
from simplerl.errors import ConfigError

FILES: dict[str, bytes] = {}
ASKED: list[str | None] = []
CUT: list[int] = []  # the next answer ends after this many bytes


class Mirror(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        content = FILES.get(self.path[1:])
        asked = self.headers.get("Range")
        ASKED.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        if content is None or start >= len(content):
            self.send_error(404 if content is None else 416)
            return
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : CUT.pop() if CUT else None])

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.chdir(tmp_path)
    for state in (FILES, ASKED, CUT):
        state.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


ROWS = [{"question": f"{i} + 1?", "answer": str(i + 1), "level": 3} for i in range(5)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
PLAIN = fetch.Source("a/b.jsonl", hashlib.sha256(LINES).hexdigest(), 5, "data/benchmarks/b.jsonl", "MIT")


def test_a_file_is_fetched_once(host: str) -> None:
    FILES[PLAIN.place] = LINES
    assert f"5 rows, sha256 {PLAIN.digest}" in fetch.fetch(PLAIN, host)
    assert Path(PLAIN.target).read_bytes() == LINES
    assert "present and correct" in fetch.fetch(PLAIN, host)
    assert ASKED == [None]
    assert [path.name for path in Path("data/benchmarks").iterdir()] == ["b.jsonl"]


def test_a_cut_transfer_resumes(host: str) -> None:
    FILES[PLAIN.place] = LINES
    CUT.append(50)
    with pytest.raises(ConfigError, match="repeat the command, which resumes"):
        fetch.fetch(PLAIN, host)
    assert not Path(PLAIN.target).exists()
    fetch.fetch(PLAIN, host)
    assert ASKED == [None, "bytes=50-"]
    assert Path(PLAIN.target).read_bytes() == LINES


def test_a_complete_partial_file_is_used(host: str) -> None:
    FILES[PLAIN.place] = LINES
    partial = Path("data/benchmarks/.b.jsonl.part")
    partial.parent.mkdir(parents=True)
    partial.write_bytes(LINES)
    fetch.fetch(PLAIN, host)
    assert Path(PLAIN.target).read_bytes() == LINES


def test_changed_files_are_refused(host: str) -> None:
    FILES[PLAIN.place] = LINES.replace(b"4", b"7")
    with pytest.raises(ConfigError, match="it was changed"):
        fetch.fetch(PLAIN, host)
    assert list(Path("data/benchmarks").iterdir()) == []
    Path(PLAIN.target).write_text("mine")
    with pytest.raises(ConfigError, match="differs from the published file"):
        fetch.fetch(PLAIN, host)
    assert Path(PLAIN.target).read_text() == "mine"


def test_a_wrong_number_of_rows_is_refused(host: str) -> None:
    FILES[PLAIN.place] = LINES
    with pytest.raises(ConfigError, match="has 5 rows, not 6"):
        fetch.fetch(replace(PLAIN, rows=6), host)


def test_a_file_in_another_layout_is_converted(host: str) -> None:
    content = json.dumps(ROWS).encode()
    blob = "git:" + hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    source = replace(PLAIN, digest=blob, target="data/c.json", fields={"id": "", "prompt": "question"})
    FILES[source.place] = content
    fetch.fetch(source, host)
    assert json.loads(Path("data/c.json").read_text())[4] == {"id": 4, "prompt": "4 + 1?"}
    assert "present and correct" in fetch.fetch(source, host)
    Path("data/c.json").write_text("[]")
    with pytest.raises(ConfigError, match="differs"):
        fetch.fetch(source, host)


def test_without_a_server_or_a_file(host: str) -> None:
    with pytest.raises(ConfigError, match="status 404"):
        fetch.fetch(PLAIN, host)
    with pytest.raises(ConfigError, match=r"cannot be fetched .*: check the network"):
        fetch.fetch(PLAIN, "http://127.0.0.1:9")


@pytest.mark.slow
def test_the_published_files(host: str, shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The shared files have the recorded digests and numbers of rows, and are brought to their targets."""
    for source in fetch.SOURCES.values():
        FILES[source.place] = (shared / source.target).read_bytes()
    fetch.main(["math_8k", "gsm8k", "suite8"], host)
    for source in fetch.SOURCES.values():
        assert Path(source.target).read_bytes() == FILES[source.place]
    assert capsys.readouterr().out.count("present and correct") == 1  # gsm8k is in two groups


def test_names(capsys: pytest.CaptureFixture[str]) -> None:
    fetch.main([])
    listed = capsys.readouterr().out
    assert [name for name in [*fetch.SOURCES, *fetch.GROUPS] if f"{name}: " not in listed] == []
    with pytest.raises(ConfigError, match="maths is unknown: choose among"):
        fetch.main(["maths"])


@pytest.mark.slow
def test_a_missing_file_names_the_command_that_brings_it(host: str, shared: Path) -> None:
    for name, source in fetch.SOURCES.items():
        FILES[source.place] = (shared / source.target).read_bytes()
        with pytest.raises(ConfigError, match=rf"run python -m simplerl.data.fetch {name}, or"):
            read_file(Path(source.target))
        fetch.main([name], host)
        read_file(Path(source.target))
    with pytest.raises(ConfigError, match=r"own.jsonl does not exist: correct the path"):
        read_file(Path("own.jsonl"))
