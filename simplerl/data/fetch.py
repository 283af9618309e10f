"""Download the published training problems and benchmarks to the paths that conf/ and the documentation name.

    python -m simplerl.data.fetch                    the names, with source and licence
    python -m simplerl.data.fetch math_8k suite8

Every file comes from a fixed commit of a public repository; its digest and its number of rows are checked. A transfer
that was cut is resumed. A file that is present and correct is not fetched again; one that differs is kept and refused.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from simplerl.errors import ConfigError
from simplerl.io.files import write_text
from simplerl.io.places import spelled

HOST = "https://raw.githubusercontent.com"
_SIMPLERL_V0 = "hkust-nlp/simpleRL-reason/2702a87c68c107d0f329b701b034c229bf62a130"
_GSM8K = "openai/grade-school-math/3101c7d5072418e28b9008a6636bde82a006892c"
_BLOCK = 1 << 16  # bytes read at a time
_SECONDS = 30  # without a byte until a transfer is given up


@dataclass(frozen=True)
class Source:
    """Describes a published file: its place under HOST, its digest there, its rows, and where it is stored.

    digest: SHA-256, or "git:" and the id of the Git blob. fields: column here -> column there ("": the row's number),
    for a file that is stored in another layout; None stores it as published.
    """

    place: str
    digest: str
    rows: int
    target: str
    licence: str
    fields: Mapping[str, str] | None = None
    same: str = ""  # SHA-256 of another encoding of the same rows, which is also accepted


def _benchmark(name: str, rows: int, digest: str) -> Source:
    place, target = f"{_SIMPLERL_V0}/eval/data/{name}/test.jsonl", f"data/benchmarks/{name}.jsonl"
    return Source(place, digest, rows, target, "of the benchmark's authors; repository MIT")


BENCHMARKS: dict[str, Source] = {
    name: _benchmark(name, rows, digest)
    for name, rows, digest in (
        ("aime24", 30, "af2b8bd2aa911b6333ad0df32f3ca05c7ae8ed10f1731f4372c8ae26990bf7ac"),
        ("math500", 500, "35dc41080a3680858b27fa7e0533d2d547825316fc5dafe5d316f4ccc5a06132"),
        ("amc23", 40, "43707e1ca784602d8479de24ee8ce36609dbebc46dd152b0b12a46611aa898a4"),
        ("minerva_math", 272, "0e656b430d3a0a1dab6aa853f453ba3805e28e2cabe4fc72486a897cc09d8ba2"),
        ("olympiadbench", 675, "bb8c1e38a16ea9eacb77530315a674d883f267fbff79183effc53681b4fcc416"),
        ("gsm8k", 1319, "9f098df7ff4522078d6ccec27a5c38a454790fdb51131bedfaa0e490070d5394"),
        ("gaokao2023en", 385, "654d8f49bdb86f578c171dbc0dd8f4d9f1bf3d7a7438f60359fda7d643df4951"),
        ("college_math", 2818, "91131bc4a355b884fc63ef7c4f048c35adb030004a4cb07b1475698f120aa4a6"),
    )
}
SOURCES: dict[str, Source] = {
    "math_8k": Source(
        f"{_SIMPLERL_V0}/train/data/math_level3to5_data_processed_with_qwen_prompt.json",
        "git:a51b46c19354c8ac1c409115f95ee3578c67cedd", 8523, "data/math_lvl3to5_8k.json", "MIT (MATH; repository MIT)",
        fields={"id": "", "prompt": "question", "answer": "answer"},
        same="aa3cc946c7106464a4e4c8df47633c5ca7655b57bed8b8bb026e86bc7745ec46",
    ),
    "gsm8k_train": Source(
        f"{_GSM8K}/grade_school_math/data/train.jsonl",
        "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465", 7473, "data/gsm8k_train.jsonl", "MIT",
        same="6043ef64147b59871f4fd3adf669c306fe0a4c27e5a5c4bfb761f3f084895a13",
    ),
    **BENCHMARKS,
}  # fmt: skip
GROUPS = {"suite8": tuple(BENCHMARKS), "gsm8k": ("gsm8k_train", "gsm8k")}  # name -> several files


def name_of(file: Path) -> str | None:
    """Return the name under which `file` can be fetched, or None if it is not the target of a source."""
    found = (name for name, one in SOURCES.items() if Path(one.target).absolute() == file.absolute())
    return next(found, None)


def fetch(source: Source, host: str = HOST) -> str:
    """Download one file to its target unless it is there, and return a sentence about what was done. Raises ConfigError
    if the target is another file, or if the download fails or has another digest or number of rows."""
    target, record = Path(source.target), _record(source)
    if target.exists():
        digest = _digest(target.read_bytes())
        if digest not in (source.digest, source.same, record.read_text().strip() if record.exists() else ""):
            raise ConfigError(f"{target} differs from the published file (sha256 {digest}): rename or remove it.")
        return f"{target} is present and correct, sha256 {digest}"
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.part")
    url = f"{host}/{source.place}"
    _download(url, partial)
    content = partial.read_bytes()
    found = _git_digest(content) if source.digest.startswith("git:") else _digest(content)
    if found != source.digest and _digest(content) != source.same:
        partial.unlink()
        raise ConfigError(f"{url} has the digest {found}, not {source.digest}: it was changed; get the file elsewhere.")
    rows = _rows(content, source, url)
    converted = source.fields is not None and found == source.digest
    text = _converted(rows, source.fields or {}) if converted else content.decode()
    digest = _digest(text.encode())
    if converted:
        write_text(record, f"{digest}\n")
    write_text(target, text)
    partial.unlink()
    return f"{target}: {len(rows)} rows, sha256 {digest}"


def _record(source: Source) -> Path:
    """Return the file that holds the digest of a converted file."""
    target = Path(source.target)
    return target.with_name(f".{target.name}.sha256")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _git_digest(content: bytes) -> str:
    return "git:" + hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _download(url: str, partial: Path) -> None:
    """Append what is missing of `url` to `partial`. Raises ConfigError if the transfer fails; what came is kept."""
    start = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
            resumed = answer.status == 206
            length = int(answer.headers.get("Content-Length") or -1)
            with partial.open("ab" if resumed else "wb") as file:
                while block := answer.read(_BLOCK):
                    file.write(block)
                    length -= len(block)
                file.flush()
                os.fsync(file.fileno())
        if length > 0:
            raise ConnectionError("the transfer was cut")
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is missing
            return
        raise ConfigError(f"{url} cannot be fetched (status {error.code}): try later.") from error
    except (OSError, HTTPException) as error:
        raise ConfigError(
            f"{url} cannot be fetched ({getattr(error, 'reason', error)}): check the network and repeat the command, "
            "which resumes."
        ) from error


def _rows(content: bytes, source: Source, url: str) -> list[dict[str, Any]]:
    text = content.decode()
    rows = json.loads(text) if text.lstrip().startswith("[") else [json.loads(x) for x in text.split("\n") if x.strip()]
    if len(rows) != source.rows:
        raise ConfigError(f"{url} has {len(rows)} rows, not {source.rows}: it was changed; get the file elsewhere.")
    return list(rows)


def _converted(rows: Sequence[Mapping[str, Any]], fields: Mapping[str, str]) -> str:
    chosen = [{here: row[there] if there else i for here, there in fields.items()} for i, row in enumerate(rows)]
    return json.dumps(chosen, ensure_ascii=False, indent=1) + "\n"


def main(arguments: Sequence[str], host: str = HOST) -> None:
    parser = argparse.ArgumentParser(spelled("fetch"), description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join({**SOURCES, **GROUPS})}; none: list them")
    names = parser.parse_args(arguments).names
    if unknown := [name for name in names if name not in SOURCES and name not in GROUPS]:
        raise ConfigError(f"{unknown[0]} is unknown: choose among {', '.join({**SOURCES, **GROUPS})}.")
    for name in names or SOURCES:
        for member in GROUPS.get(name, (name,)) if names else (name,):
            source = SOURCES[member]
            print(f"{member}: {host}/{source.place}, licence: {source.licence}")
            print(f"  {fetch(source, host)}" if names else f"  {source.rows} rows -> {source.target}")
    if not names:
        print("".join(f"{name}: {', '.join(members)}\n" for name, members in GROUPS.items()), end="")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ConfigError, OSError) as error:
        sys.exit(f"error: {error}")
