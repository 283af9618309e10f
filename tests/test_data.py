"""Loading problems: file formats, extraction rules, error messages, and the published data files."""

from __future__ import annotations

import csv
import gzip
import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import light_rewards
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
from composing import composed
from hydra.utils import instantiate
from omegaconf import OmegaConf

from simplerl.config.load import load as load_config
from simplerl.data import readers
from simplerl.data.benchmarks import BENCHMARKS, Benchmark
from simplerl.data.rows import settings_under
from simplerl.data.sources import benchmark, load_problems
from simplerl.data.task import prepare_task
from simplerl.errors import ConfigError
from simplerl.rewards.pool import Grader
from simplerl.types import Problem

ROOT = Path(__file__).resolve().parent.parent
ROWS: list[dict[str, Any]] = [
    {"question": "What is 1 + 1?", "answer": "2", "level": "Level 3", "meta": {"gold": 2.0}},
    {"question": "Solve \\frac{x}{2} = {1}.\u2028", "answer": "x = 2", "level": "Level 4", "meta": {"gold": 2.5}},
    {"question": "How many?", "answer": "1,000", "level": "Level 5", "meta": {"gold": 1e3}},
]
COLUMNS = {"question": "question", "answer": "answer"}


def load(path: Path, **keywords: Any) -> list[Problem]:
    return load_problems(path=str(path), **{"columns": COLUMNS, **keywords})


def lines(*rows: object) -> bytes:
    return b"\n".join(json.dumps(row, ensure_ascii=False).encode() for row in rows)


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def write_arrow(path: Path, stream: bool) -> Path:
    table = pa.Table.from_pylist(ROWS)
    opened = pa.ipc.new_stream if stream else pa.ipc.new_file
    with opened(str(path), table.schema) as file:
        file.write_table(table)
    return path


def save_dataset(path: Path, splits: bool) -> Path:
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list(ROWS)
    (datasets.DatasetDict({"train": data}) if splits else data).save_to_disk(path)
    return path


def write_csv(path: Path, delimiter: str = ",", encoding: str = "utf-8") -> Path:
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, ["question", "answer"], delimiter=delimiter, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(ROWS)
    return path


def write_shards(path: Path) -> Path:
    """Eleven shards, of which part-10 comes last, one row in each but the first."""
    path.mkdir()
    for number in range(11):
        rows = {1: ROWS[:1], 2: ROWS[1:2], 10: ROWS[2:]}.get(number, [])
        write(path / f"part-{number}.jsonl", lines(*rows))
    return path


FORMATS = {
    "list.json": lambda p: write(p, json.dumps(ROWS)),
    "lines.json": lambda p: write(p, lines(*ROWS)),
    "lines.jsonl": lambda p: write(p, b"\xef\xbb\xbf" + lines(*ROWS) + b"\n\n"),
    "table.parquet": lambda p: (pq.write_table(pa.Table.from_pylist(ROWS), p), p)[1],
    "file.arrow": lambda p: write_arrow(p, stream=False),
    "stream.arrow": lambda p: write_arrow(p, stream=True),
    "table.csv": write_csv,
    "excel.csv": lambda p: write_csv(p, ";", "utf-8-sig"),
    "table.tsv": lambda p: write_csv(p, "\t", "utf-16"),
    "lines.jsonl.gz": lambda p: write(p, gzip.compress(lines(*ROWS))),
    "table.csv.gz": lambda p: write(p, gzip.compress(write_csv(p).read_bytes())),
    "object.json": lambda p: write(p, json.dumps({"version": 1, "data": ROWS})),
    "columns.json": lambda p: write(p, json.dumps({name: [row[name] for row in ROWS] for name in ROWS[0]})),
    "pandas.json": lambda p: write(p, json.dumps({n: {str(i): r[n] for i, r in enumerate(ROWS)} for n in ROWS[0]})),
    "shards": write_shards,
    "dataset": lambda p: save_dataset(p, splits=False),
    "splits": lambda p: save_dataset(p, splits=True),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_problems(name: str, tmp_path: Path) -> None:
    found = load(FORMATS[name](tmp_path / name), source="s")
    assert found == [
        Problem("s/0", "What is 1 + 1?", "2", "s"),
        Problem("s/1", "Solve \\frac{x}{2} = {1}.", "x = 2", "s"),
        Problem("s/2", "How many?", "1,000", "s"),
    ]


def test_a_number_may_name_a_column(tmp_path: Path) -> None:
    chats = [[{"role": "user", "content": "Q?"}], [{"role": "assistant", "content": "1"}]]
    write(tmp_path / "d.jsonl", lines(dict(zip("01", chats, strict=True))))
    assert [p.answer for p in load(tmp_path / "d.jsonl", columns={"question": 0, "answer": 1})] == ["1"]


def test_columns_are_mapped_including_nested_ones(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", lines(*ROWS))
    columns = {"question": "question", "answer": "meta.gold", "level": "level", "solution": "answer", "id": "level"}
    found = load(path, columns=columns)
    assert found[0] == Problem("Level 3", "What is 1 + 1?", "2", "d", "3", "2")
    assert [problem.answer for problem in found] == ["2", "2.5", "1000"]


def test_levels_limit_and_shuffle(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", lines(*ROWS))
    with_level = {**COLUMNS, "level": "level"}
    assert [p.level for p in load(path, columns=with_level, levels=[3, "Level 5"])] == ["3", "5"]
    assert [p.id for p in load(path, limit=2)] == ["d/0", "d/1"]
    orders = {tuple(p.id for p in load(path, shuffle_seed=seed)) for seed in range(10)}
    assert len(orders) > 1
    assert all(set(order) == {"d/0", "d/1", "d/2"} for order in orders)


def test_duplicates_are_counted_and_ids_unique(tmp_path: Path) -> None:
    rows = [
        {"question": "A?", "answer": "1", "n": 7},
        {"question": " A? ", "answer": "1", "n": 7},
        {"question": "A?", "answer": "2", "n": 7},
        {"question": "B?", "answer": "1", "n": 7},
    ]
    path = write(tmp_path / "d.jsonl", lines(*rows))
    columns = {**COLUMNS, "id": "n"}
    dropped = load_problems(path=str(path), columns=columns)
    assert [p.id for p in dropped] == ["7", "7#2"]
    assert dropped.report == {
        "rows": 4, "bad": 0, "other_level": 0, "duplicates": 2, "conflicts": 1, "ungradable": 0, "kept": 2,
    }  # fmt: skip
    assert [p.id for p in load(path, columns=columns, duplicates="keep")] == ["7", "7#2", "7#3", "7#4"]
    taken = [{"question": f"{name}{i}?", "answer": "1", "n": name} for i, name in enumerate(["x", "x", "x#2"])]
    assert [p.id for p in load(write(tmp_path / "t.jsonl", lines(*taken)), columns=columns)] == ["x", "x#3", "x#2"]


def test_answer_and_solution_rules(tmp_path: Path) -> None:
    gsm = {"question": "Q?", "answer": "He has 2*500 = <<2*500=1000>>1000.\n#### 1,000"}
    path = write(tmp_path / "g.jsonl", lines(gsm))
    columns = {**COLUMNS, "solution": "answer", "level": None, "id": None}  # null: no such column
    (problem,) = load(path, columns=columns, answer_from="after_hashes", solution_from="gsm8k")
    assert (problem.answer, problem.solution) == ("1000", "He has 2*500 = 1000.")
    path = write(tmp_path / "m.jsonl", lines({"question": "Q?", "answer": r"\boxed{1} so \boxed{\frac{1}{2}}."}))
    assert load(path, answer_from="last_box")[0].answer == r"\frac{1}{2}"


GOOD = {"question": "Q?", "answer": "1"}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def damaged_parquet(path: Path) -> Path:
    """A file whose footer is whole and whose pages are not."""
    pq.write_table(pa.Table.from_pylist([{**GOOD, "question": f"{i}?"} for i in range(5000)]), path)
    content = bytearray(path.read_bytes())
    content[4:2000] = b"\xff" * 1996
    return write(path, bytes(content))


def write_stream(table: pa.Table, path: Path) -> None:
    with pa.ipc.new_stream(str(path), table.schema) as file:
        file.write_table(table)


def repeated_column(path: Path, writes: Callable[[pa.Table, Path], None]) -> Path:
    writes(pa.table([["Q?"], ["1"], ["2"]], names=["question", "answer", "answer"]), path)
    return path


BAD_FILES: dict[str, tuple[str, Any, dict[str, Any], str]] = {
    "not JSON": ("d.jsonl", lines(GOOD) + b'\n{"question": ', {}, "d.jsonl, line 2: it is not valid JSON"),
    "not an object": ("d.jsonl", lines(GOOD, [1, 2]), {}, "d.jsonl, line 2: it is not an object with named columns"),
    "two answers": ("d.jsonl", lines({**GOOD, "answer": ["1", "2"]}), {}, "is a list, not text or a number; no row"),
    "no such column": (
        "d.json", json.dumps([GOOD, {"prompt": "Q?", "answer": "1"}]), {},
        "d.json, row 2: data.columns.question=question names a column that this row does not have",
    ),
    "empty question": ("d.jsonl", lines({**GOOD, "question": "  "}), {}, "line 1: the question (column 'question') is"),
    "question no text": ("d.jsonl", lines({**GOOD, "question": 3}), {}, "the question (column 'question') is not text"),
    "null answer": ("d.jsonl", lines({**GOOD, "answer": None}), {}, "line 1: the answer is empty, as in all rows"),
    "empty answer": ("d.jsonl", b"\n" + lines({**GOOD, "answer": " "}), {}, "line 2: the answer is empty, as in all"),
    "list answer": ("d.jsonl", lines({**GOOD, "answer": [1]}), {}, "(column 'answer') is a list, not text"),
    "NaN answer": ("d.jsonl", '{"question": "Q?", "answer": NaN}', {}, "line 1: the answer is empty, as in all rows"),
    "infinite": ("d.jsonl", '{"question": "Q?", "answer": Infinity}', {}, "the answer (column 'answer') is inf"),
    "no hashes": ("d.jsonl", lines(GOOD), {"answer_from": "after_hashes"}, "the answer (column 'answer') has no ####"),
    "no box": ("d.jsonl", lines(GOOD), {"answer_from": "last_box"}, r"the answer (column 'answer') has no \boxed{}"),
    "not UTF-8": ("d.jsonl", lines(GOOD) + b'\n{"question": "\xff?"}', {}, "line 2: it is not UTF-8 text"),
    "no rows": ("d.jsonl", "\n", {}, "d.jsonl has no usable rows"),
    "two lists": ("d.json", json.dumps({"a": [GOOD], "b": [GOOD]}), {}, "holds several lists of rows (a, b)"),
    "a number": ("d.json", "3", {}, "d.json does not hold a list of rows"),
    "broken JSON list": ("d.json", f"[{json.dumps(GOOD)}, {{]", {}, "d.json is not valid JSON after row 1: Expecting"),
    "short CSV row": ("d.csv", 'question,answer\n"A, B?",1\nC?', {}, "row 2: it does not have as many fields"),
    "open quote": ("d.csv", 'question,answer\nA?,1\n"B?,2\nC?,3', {}, "d.csv, row 1 is the last row that can be read"),
    "truncated gz": (
        "d.jsonl.gz", gzip.compress(b"".join(lines({**GOOD, "n": i}) + b"\n" for i in range(9000)))[:-3000], {},
        " is the last row that can be read (Compressed file ended before the end-of-stream marker",
    ),
    "no gz": ("d.csv.gz", "question,answer", {}, "d.csv.gz is not a valid Csv file (Not a gzipped file"),
    "damaged Parquet": ("d.parquet", damaged_parquet, {}, "d.parquet is not a valid Parquet file"),
    "two user turns": (
        "d.jsonl", lines({**GOOD, "question": [{"role": "user", "content": c} for c in "ab"]}), {},
        "line 1: the question (column 'question') is a chat with 2 user turns",
    ),
    "image": (
        "d.jsonl", lines({**GOOD, "question": [{"role": "user", "content": [{"type": "image"}]}]}), {},
        "(column 'question') has a user turn that is not text",
    ),
    "tool turn": (
        "d.jsonl", lines({**GOOD, "question": [{"role": "tool", "content": "x"}]}), {}, "is a chat with a tool turn",
    ),
    "chat without an answer": (
        "d.jsonl", lines({**GOOD, "answer": [user("x")]}), {}, "is a chat without an assistant turn",
    ),
    "endless number": ("d.jsonl", '{"question": "Q?", "answer": ' + "9" * 5000 + "}", {}, "line 1: it cannot be read"),
    "endless number in a list": ("d.json", '[{"answer": ' + "9" * 5000 + "}]", {}, "d.json cannot be read: Exceeds"),
    "not Parquet": ("d.parquet", "PAR0", {}, "d.parquet is not a valid Parquet file"),
    "not Arrow": ("d.arrow", "ARROWED", {}, "d.arrow is not a valid Arrow file"),
    "repeated column": ("d.csv", "question,answer,answer\nQ?,1,2", {}, "d.csv has 2 columns that are named 'answer'"),
    "repeated tab": ("d.tsv", "question\tquestion\tanswer\nQ?\tR?\t2", {}, "2 columns that are named 'question'"),
    "repeated Parquet": (
        "d.parquet", lambda path: repeated_column(path, pq.write_table), {}, "2 columns that are named 'answer'",
    ),
    "repeated Arrow": ("d.arrow", lambda path: repeated_column(path, write_stream), {}, "2 columns that are named"),
    "repeated field": (
        "d.jsonl", lines(GOOD) + b'\n{"question": "Q?", "answer": 1, "answer": 2}', {},
        "line 2: an object has 2 fields that are named 'answer'; correct it, or skip such rows",
    ),
    "repeated field in a list": (
        "d.json", '[{"question": "Q?", "answer": 1, "answer": 2}]', {}, "object has 2 fields that are named 'answer'",
    ),
    **{
        f"surrogate in {key}": (
            "d.jsonl", lines(GOOD) + b"\n" + json.dumps({**GOOD, key: "\ud800"}).encode(), {},
            f"line 2: the {key} has a lone surrogate, which UTF-8 cannot represent; correct it, or skip such rows",
        )
        for key in ("question", "answer")
    },
    "unknown format": ("d.xml", "<question>", {}, "d.xml has an unsupported format"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_raise_a_one_line_error(name: str, tmp_path: Path) -> None:
    file, content, keywords, message = BAD_FILES[name]
    path = content(tmp_path / file) if callable(content) else write(tmp_path / file, content)
    with pytest.raises(ConfigError) as error:
        load(path, **keywords)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


BAD_SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown column": ({"columns": {**COLUMNS, "hint": "h"}}, "data.columns.hint is unknown"),
    "extra column": ({"extra": ["hint"]}, "line 1: data.extra=hint names a column that this row does not have"),
    "no column": ({"columns": {"question": "q", "answer": True}}, "data.columns.answer=True must be a column name"),
    "levels without column": ({"levels": [3]}, "data.levels needs the column of the level"),
    "no such level": (
        {"levels": [9], "columns": {**COLUMNS, "level": "level"}}, "its levels, which are 3, 4, 5",
    ),
    "answer_from": ({"answer_from": "hashes"}, "data.answer_from=hashes is unknown: choose one of text"),
    "on_bad_row": ({"on_bad_row": "ignore"}, "data.on_bad_row=ignore is unknown: choose one of raise, skip"),
    "limit": ({"limit": 0}, "data.limit=0 keeps no problem"),
    "split of a file": ({"split": "train"}, "is a single file"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_SETTINGS)
def test_bad_settings_raise_an_error(name: str, tmp_path: Path) -> None:
    keywords, message = BAD_SETTINGS[name]
    with pytest.raises(ConfigError) as error:
        load(write(tmp_path / "d.jsonl", lines(*ROWS)), **keywords)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("path", "message"),
    [("absent.jsonl", "does not exist"), ("a/b/c", "neither an existing file or folder nor a Hub id")],
)
def test_absent_files(path: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_problems(path=path, columns=COLUMNS)


def test_a_folder_without_data_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "README.md", "#")
    with pytest.raises(ConfigError, match=r"holds no data files \(.json, .jsonl"):
        load(tmp_path)


def test_a_missing_split_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no split 'test': set data.split=train"):
        load(save_dataset(tmp_path / "d", splits=True), split="test")


def test_an_unreachable_hub_data_set_raises_a_config_error() -> None:
    pytest.importorskip("datasets")
    code = (
        "from simplerl.data.sources import load_problems, ConfigError\n"
        "try: load_problems(path='simplerl-tests/absent', columns={'question': 'q', 'answer': 'a'})\n"
        "except ConfigError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"HF_HUB_OFFLINE": "1", "PATH": "", "HOME": "/nonexistent", "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("The Hub data set simplerl-tests/absent (split train) cannot be loaded (")


def test_skipped_rows_are_logged_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "d.jsonl", lines(GOOD, {"question": "Q2?"}, 5, {"question": "R?", "answer": 3}))
    with caplog.at_level(logging.WARNING):
        found = load_problems(path=str(path), columns=COLUMNS, on_bad_row="skip")
    assert [p.answer for p in found] == ["1", "3"]
    assert (found.report["rows"], found.report["bad"], found.report["kept"]) == (4, 2, 2)
    assert "d.jsonl, line 2: data.columns.answer=answer names a column that this row does not have" in caplog.text
    with pytest.raises(ConfigError, match=r"line 1: it is not an object.*no row is usable"):
        load(write(tmp_path / "all.jsonl", "5"), on_bad_row="skip")


def test_ungradable_rows_are_refused_kept_or_excluded(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", lines(GOOD, {"question": "No gold?", "answer": ""}))
    assert [p.answer for p in load(path, ungradable="keep")] == ["1", ""]
    assert [p.answer for p in load(path, ungradable="exclude")] == ["1"]
    nulls = b'{"question": "A?", "answer": NaN}\n{"question": "B?", "answer": null}'
    path = write(tmp_path / "n.jsonl", nulls)
    assert [p.answer for p in load(path, ungradable="keep", answer_from="last_box")] == ["", ""]
    nested = write(tmp_path / "nested.jsonl", lines({"question": "A?", "reward_model": None}))
    columns = {"answer": "reward_model.ground_truth"}
    assert load(nested, columns=columns, ungradable="keep")[0].answer == ""


# The real files


def test_all_rows_of_the_published_rl_file(shared: Path) -> None:
    path = str(shared / "data/math_lvl3to5_8k.json")
    columns = {"question": "prompt", "answer": "answer", "id": "id"}
    found = load_problems(path=path, columns=columns, source="math", duplicates="keep", ungradable="keep")
    assert len(found) == len({p.id for p in found}) == 8523
    assert (found.report["ungradable"], found.report["duplicates"], found.report["conflicts"]) == (2, 2, 0)
    assert found[0].answer == "118"
    with pytest.raises(ConfigError, match=r"math_lvl3to5_8k.json, row 5055: the answer is empty"):
        load_problems(path=path, columns=columns)


def test_gsm8k_train_with_solutions(shared: Path) -> None:
    columns = {**COLUMNS, "solution": "answer"}
    found = load(shared / "data/gsm8k_train.jsonl", columns=columns, answer_from="after_hashes", solution_from="gsm8k")
    assert len(found) == 7473
    assert not any("<<" in (p.solution or "") or "####" in (p.solution or "") for p in found)
    assert all(p.answer.lstrip("-").replace(".", "").isdigit() for p in found)


FIRST = {  # copied from the files by hand
    "gsm8k": "18",
    "math500": r"\left( 3, \frac{\pi}{2} \right)",
    "minerva_math": "1.6",
    "gaokao2023en": r"\{x|-2\leq x < 1\}",
    "olympiadbench": "2",
    "college_math": "10-4 n",
    "aime24": "204",
    "amc23": "27",
}


@pytest.mark.parametrize("name", FIRST)
def test_benchmarks(name: str, shared: Path) -> None:
    rule = BENCHMARKS[name]
    found = benchmark(name=name, path=str(shared / "data/benchmarks"))
    assert len(found) == rule.items
    assert [p.id for p in found] == [f"{name}/{i}" for i in range(rule.items)]
    assert {p.source for p in found} == {name}
    assert found[0].answer == FIRST[name]
    assert tuple(i for i, p in enumerate(found) if not p.answer) == rule.ungradable
    assert not any(p.answer.startswith("$") or p.answer.endswith("$") for p in found)


def test_empty_golds_are_excluded_only_on_request(shared: Path) -> None:
    found = benchmark(name="gaokao2023en", path=str(shared / "data/benchmarks"), ungradable="exclude")
    assert len(found) == 383
    assert {"gaokao2023en/166", "gaokao2023en/168"} <= {p.id for p in found}
    assert not {"gaokao2023en/167", "gaokao2023en/192"} & {p.id for p in found}


def test_benchmark_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"evals.path is not set: set it to the folder that holds amc23.jsonl"):
        benchmark(name="amc23", path=None)
    with pytest.raises(
        ConfigError, match=r"name=amc24 is unknown: choose one of aime24, math500.* such as data.name=amc23"
    ):
        benchmark(name="amc24", path=str(tmp_path))
    write(tmp_path / "gsm8k.jsonl", lines({"question": "Q?", "answer": "no mark"}))
    with pytest.raises(
        ConfigError,
        match=r"line 1: the answer \(column 'answer'\) has no ####; correct it, or the row .gsm8k. of BENCHMARKS in ",
    ):
        benchmark(name="gsm8k", path=str(tmp_path))


def problems(*overrides: str, key: str = "data") -> list[Problem]:
    """Load the problems under a key of the configuration, as a run does."""
    with settings_under(key):
        return list(instantiate(OmegaConf.select(composed(*overrides), key), _convert_="object")())


def test_a_custom_held_out_file(tmp_path: Path) -> None:
    """evals=heldout reads it like the training file; worked solutions as gold answers are refused."""
    rows = [{"q": f"What is {i} + 1?", "a": f"It is {i + 1}.\n#### {i + 1}"} for i in range(4)]
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = ["data=jsonl", f"data.path={tmp_path}/train.jsonl", "data.columns.question=q", "data.columns.answer=a"]
    own += ["evals=heldout", f"evals.path={tmp_path}/test.jsonl"]
    with pytest.raises(ConfigError, match=r"4 of 4 answers are worked solutions .* set data.answer_from=after_hashes"):
        problems(*own)
    for key in ("data", "evals.sets.heldout"):
        read = problems(*own, "data.answer_from=after_hashes", key=key)
        assert [problem.answer for problem in read] == ["1", "2", "3", "4"]


# Chats, guessed columns and extra columns


CHATS: dict[str, tuple[dict[str, Any], str | None]] = {  # a row, and the system turn
    "text": ({"question": "Q?", "answer": "7"}, None),
    "verl": ({"prompt": [user("Q?")], "reward_model": {"ground_truth": "7", "style": "rule"}}, None),
    "verl as JSON text": ({"prompt": [user("Q?")], "reward_model": '{"ground_truth": "7"}'}, None),
    "TRL": ({"prompt": [user("Q?")], "completion": [{"role": "assistant", "content": "7"}]}, None),
    "messages": ({"messages": [user(" Q?"), {"role": "assistant", "content": "7 "}]}, None),
    "ShareGPT": (
        {
            "conversations": [
                {"from": "system", "value": "S"}, {"from": "human", "value": "Q?"}, {"from": "gpt", "value": "7"}
            ]
        },
        "S",
    ),
    "parts": ({"Problem": [{"role": "user", "content": [{"type": "text", "text": "Q?"}]}], "Answer": 7}, None),
    "chat as JSON text": ({"prompt": json.dumps([user("Q?")]), "answer": 7}, None),
    "chat as Python prints it": ({"prompt": str([user("Q?")]), "answer": 7}, None),
    "a list of one text": ({"prompt": [user("Q?")], "reward_model": {"ground_truth": '["7"]'}}, None),
    "system": ({"query": [{"role": "system", "content": "S"}, user("Q?")], "solution": "7"}, "S"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHATS)
def test_chats_and_usual_columns_need_no_settings(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    row, system = CHATS[name]
    path = write(tmp_path / "d.jsonl", lines(row))
    with caplog.at_level(logging.INFO):
        (problem,) = load_problems(path=str(path))
    assert (problem.question, problem.answer, problem.system) == ("Q?", "7", system)
    assert "guessed the columns question = " in caplog.text
    assert load_problems(path=str(path), system="drop")[0].system is None


@pytest.mark.parametrize("gold", ["[1, 2]", '["1", "2"]', '[{"a": 1}]', "['", "[2]"])
def test_other_texts_in_brackets_are_answers_as_they_are(gold: str, tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", lines({"question": "['Q", "answer": gold}))
    assert [(problem.question, problem.answer) for problem in load(path)] == [("['Q", gold)]


def test_only_unambiguous_columns_are_guessed(tmp_path: Path) -> None:
    path = write(
        tmp_path / "d.jsonl", lines({"question": "Q?", "prompt": "P", "answer": "7", "solution": r"\boxed{7}"})
    )
    (problem,) = load_problems(path=str(path), columns={"solution": "guess", "level": "guess"})
    assert (problem.question, problem.answer, problem.solution, problem.level) == ("Q?", "7", r"\boxed{7}", None)
    path = write(tmp_path / "two.jsonl", lines({"question": "Q?", "gold": "7", "target": "8"}))
    with pytest.raises(ConfigError, match=r"gold and target may each hold the answer: set data.columns.answer=gold or"):
        load_problems(path=str(path))


def test_other_columns_reach_the_reward(tmp_path: Path) -> None:
    row = {"question": "Q?", "answer": "1", "tests": [1, 2], "info": {"index": 3}}
    path = write(tmp_path / "d.jsonl", lines(row))
    assert load(path)[0].extra == {"tests": [1, 2], "info": {"index": 3}}
    assert load(path, extra=["info.index"])[0].extra == {"info.index": 3}
    assert load(path, extra=[])[0].extra == {}
    path = write(tmp_path / "weights.jsonl", lines({**row, "weight": 0.25}))
    with Grader(partial(light_rewards.from_column, column="weight")) as grader:
        assert [score.reward for score in grader.grade_pairs([("x", load(path)[0])])] == [0.25]


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        (r"so $x = \boxed 7$.", "7"),
        (r"so $x = \boxed\frac12$, as \boxed{1} is not", "1"),
        (r"\boxed{1}, no, $\boxed 12$ units", "12"),
        ("\\boxed 8.\nDone.", "8"),
        (r"\(\boxed 9\) is it", "9"),
        (r"\boxed {\frac{1}{2}}", r"\frac{1}{2}"),
    ],
)
def test_boxes_without_braces(solution: str, answer: str, tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", lines({"question": "Q?", "answer": solution}))
    assert load(path, answer_from="last_box")[0].answer == answer


def test_decimals(tmp_path: Path) -> None:
    table = pa.table({"question": ["A?", "B?"], "answer": pa.array(["3.50", "12.00"]).cast(pa.decimal128(4, 2))})
    pq.write_table(table, tmp_path / "d.parquet")
    assert [p.answer for p in load(tmp_path / "d.parquet")] == ["3.50", "12"]


def test_text_that_a_table_cannot_hold_is_one_bad_row(tmp_path: Path) -> None:
    answers = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff7")]
    )
    pq.write_table(pa.table({"question": ["A?", "B?"], "answer": answers}), tmp_path / "d.parquet")
    with pytest.raises(ConfigError, match=r"d.parquet, row 1: it has a value that cannot be read"):
        load(tmp_path / "d.parquet")
    assert [p.answer for p in load(tmp_path / "d.parquet", on_bad_row="skip")] == ["7"]


CASES: dict[str, tuple[dict[str, Any], list[str]]] = {  # settings, gold answers
    "messages.parquet": ({}, ["1", "3", "5", "7"]),
    "messages.jsonl": (
        {"columns": {"question": "prompt", "answer": "reward_model.ground_truth"}},
        ["1", "3", "5", "7"],
    ),
    "messages_with_system.jsonl": ({"answer_from": "last_box"}, ["1", "2", "3"]),
    "shards": ({}, ["1", "2", "2", "3"]),
    "shards/*.parquet": ({}, ["1", "2", "2", "3"]),
    "box_without_braces.jsonl": ({"answer_from": "last_box"}, ["7", "8"]),
    "null_golds.jsonl": ({"ungradable": "exclude"}, ["1"]),
    "rows_in_an_object.json": ({}, ["1", "2"]),
    "decimals.parquet": ({}, ["3.50", "12"]),
}


@pytest.mark.parametrize("name", CASES)
def test_files_in_forms_of_others(name: str, shared: Path) -> None:
    if not (shared / "cases/data").is_dir():
        pytest.skip(f"needs the cases of other people: {shared}/cases/data is absent")
    settings, answers = CASES[name]
    assert [p.answer for p in load_problems(path=str(shared / "cases/data" / name), **settings)] == answers


# Folders and patterns


def folder_of(path: Path, *names: str) -> Path:
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        write(path / name, lines({"question": f"{name}?", "answer": "1"}))
    return path


def test_a_folder_with_splits_and_a_pattern(tmp_path: Path) -> None:
    folder = folder_of(
        tmp_path / "d", "data/train-00000-of-00002.jsonl", "data/train-00001-of-00002.jsonl", "data/test.jsonl"
    )
    write(folder / "README.md", "# card")
    assert len(load(folder)) == 2
    assert [p.question for p in load(folder, split="test")] == ["data/test.jsonl?"]
    assert len(load(folder / "**/t*.jsonl")) == 3
    with pytest.raises(ConfigError, match=r"matches no file: correct the pattern"):
        load(tmp_path / "*.parquet")


@pytest.mark.parametrize("names", [("aime24.jsonl", "aime25.jsonl"), ("a.jsonl", "b.jsonl"), ("x.jsonl", "x.json")])
def test_a_folder_of_different_data_sets_is_refused(names: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds files that are not shards of one data set"):
        load(folder_of(tmp_path / "d", *names))


def test_one_of_several_shards_is_pointed_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = folder_of(tmp_path / "d", "train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl")
    assert len(load(folder / "train-00000-of-00002.jsonl")) == 1
    assert "is one of 2 shards: name their folder to read all of them" in caplog.text


# The remedies of messages


LATIN = "question,answer\nWieviel kostet ein Café?,7\n".encode("latin-1")
SOLVED = {"question": "Q?", "answer": "It is 7.\n#### 7"}
LEVEL = {**GOOD, "level": 3}
CHAT_LIST = [{"from": "human", "value": "Q?"}, {"from": "assistant", "gold": {"value": "1"}}]
REMEDIES: dict[str, tuple[Any, list[str]]] = {  # files or the content of d.jsonl, and overrides
    "bad row": (lines(GOOD, 5), []),
    "column that a row lacks": (lines(GOOD, {"question": "R?"}), []),
    "null gold": (lines(GOOD, {"question": "R?", "answer": None}), []),
    "hashes": (lines(SOLVED), []),
    "boxes": (lines({"question": "Q?", "answer": r"\boxed{7}"}), []),
    "unknown rule": (lines(SOLVED), ["data.answer_from=hashes"]),
    "unknown choice": (lines(GOOD), ["data.on_bad_row=skp"]),
    "no limit": (lines(GOOD), ["data.limit=0"]),
    "levels without column": (lines(LEVEL), ["data.levels=[3]"]),
    "absent level": (lines(LEVEL), ["data.columns.level=level", "data.levels=[9]"]),
    "every row lacks a column": (lines({"frage": "Q?", "answer": "1"}), ["data.columns.question=fragen"]),
    "every row lacks an extra column": (lines(GOOD), ["data.extra=[hint]"]),
    "every row lacks a column of levels": (lines(GOOD), ["data.columns.level=grade"]),
    "every answer is a list": (lines({**GOOD, "answer": [{"value": "1"}]}), []),
    "every answer is an object": (lines({**GOOD, "answer": {"value": "1"}}), []),
    "rows of lists": ({"d.json": json.dumps([CHAT_LIST])}, ["data.columns.answer=1.gold.value"]),
    "answers of lists": ({"d.json": json.dumps([CHAT_LIST])}, ["data.columns.question=0.value"]),
    "split of a file": (lines(GOOD), ["data.split=test"]),
    "unknown encoding": (lines(GOOD), ["data.encoding=latin-42"]),
    "Latin-1 lines": ('{"question": "Café?", "answer": 1}'.encode("latin-1"), []),
    "Windows lines": ('{"question": "“Café”?", "answer": 1}'.encode("cp1252"), []),
    "Latin-1 CSV": ({"d.csv": LATIN}, []),
    "ambiguous": (lines({"problem": "Q?", "prompt": "P", "answer": "1"}), []),
    "unusual": (lines({"frage": "Q?", "answer": "1"}), []),
    "unrelated files": ({"d/a.jsonl": lines(GOOD), "d/b.jsonl": lines(GOOD)}, []),
    "missing shards": ({"d/train-00000-of-00002.jsonl": lines(GOOD)}, []),
    "absent split": ({"d/train.jsonl": lines(GOOD), "d/dev.jsonl": lines(GOOD)}, ["data.split=test"]),
    "no splits": ({"d/part-0.jsonl": lines(GOOD), "d/part-1.jsonl": lines(GOOD)}, ["data.split=test"]),
}


def remedy_in(message: str, given: list[str]) -> str:
    """Return the first override that a message proposes and that was not given."""
    found = re.findall(r"(?:set|with|or|as) '?((?:data|evals)\.[\w.]+=(?:\[[^\]]*\]|[^\s'])+)", message)
    found = [match.rstrip(".,;:)") for match in found]
    return next(one for one in found if one not in given)


@pytest.mark.parametrize("name", REMEDIES)
def test_the_remedy_of_a_message_works_when_pasted(name: str, tmp_path: Path) -> None:
    content, overrides = REMEDIES[name]
    files = content if isinstance(content, dict) else {"d.jsonl": content}
    for file, text in files.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        write(tmp_path / file, text)
    given = ["data=jsonl", f"data.path={tmp_path / next(iter(files)).partition('/')[0]}", *overrides]
    with pytest.raises(ConfigError) as error:
        problems(*given)
    assert "\n" not in str(error.value)
    assert problems(*given, remedy_in(str(error.value), given))


VIEWED = {"row_idx": 0, "row": {"frage_id": "q", "question": "Q?", "gold": "1"}, "truncated_cells": []}
SOLVED_IN_BOX = {"question": "Q?", "answer": "", "solution": r"So $\boxed{7}$."}
ALPACA = {"instruction": "Add.", "input": "", "output": "3"}
FOLLOWED: dict[str, tuple[bytes, list[str], str, str]] = {  # content, what the messages propose, question, answer
    "rows of the Hub's viewer": (
        lines(VIEWED), ["data.columns.question=row.question", "data.columns.answer=row.gold"], "Q?", "1"
    ),
    "an answer in the solution's box": (
        lines(SOLVED_IN_BOX), ["data.columns.answer=solution", "data.answer_from=last_box"], "Q?", "7"
    ),
    "an answer that no row has": (lines({**GOOD, "answer": ""}), ["data.ungradable=keep"], "Q?", ""),
    "an answer that some rows have": (lines({**GOOD, "answer": ""}, GOOD), ["data.ungradable=exclude"], "Q?", "1"),
    "an instruction": (lines(ALPACA), ["data.columns.question=instruction"], "Add.", "3"),
    "a name with a space at the end": (
        lines({"Frage ": "Q?", "answer": "1"}), ['data.columns.question="Frage "'], "Q?", "1"
    ),
    "a name with spaces": (
        lines({"die Frage (kurz)": "Q?", "answer": "1"}), ['data.columns.question="die Frage (kurz)"'], "Q?", "1"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLLOWED)
def test_what_messages_propose_leads_to_the_whole_problem(name: str, tmp_path: Path) -> None:
    content, proposed, question, answer = FOLLOWED[name]
    given = ["data=jsonl", f"data.path={write(tmp_path / 'd.jsonl', content)}"]
    while len(given) < len(proposed) + 2:
        with pytest.raises(ConfigError) as error:
            problems(*given)
        added = [one.rstrip(".,") for one in typed(str(error.value)) if one.startswith("data.")]
        assert added and set(added[:2]) & set(proposed)
        given += [one for one in added if one in proposed]
    assert given[2:] == proposed
    assert [(one.question, one.answer) for one in problems(*given)] == [(question, answer)]


def typed(message: str) -> list[str]:
    """Return the words of a message as a shell reads them; apostrophes within words quote nothing."""
    return [word.strip("'") for word in re.findall(r"'data[^']*'|\S+", message)]


def test_no_part_of_a_question_or_answer_is_proposed(tmp_path: Path) -> None:
    turns = [user("a"), {"role": "assistant", "content": "b"}, user("c")]
    for row, remedy in (
        ({**GOOD, "answer": ["1", "2"]}, 'write each list as one text, such as "1, 2".'),
        ({"prompt": turns, "answer": "1"}, "write each chat with one user turn of text."),
        ({**ALPACA, "input": "1 and 2"}, "join instruction and input in one column."),
    ):
        with pytest.raises(ConfigError) as error:
            load(write(tmp_path / "d.jsonl", lines(row)), columns={})
        assert str(error.value).endswith(remedy) and "data.columns" not in str(error.value)


def test_a_list_of_one_text_is_that_text(tmp_path: Path) -> None:
    assert load(write(tmp_path / "d.jsonl", lines({**GOOD, "answer": [" 2"]})))[0].answer == "2"


def test_usual_names_may_end_in_spaces(tmp_path: Path) -> None:
    file = write(tmp_path / "d.csv", "Question ,Answer \nQ?,1")
    assert [(one.question, one.answer) for one in load(file, columns={})] == [("Q?", "1")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(lines(GOOD)), r"d\.jsonl is a gzip file, not text: rename it to d\.jsonl\.gz\.$"),
        (b"\x28\xb5\x2f\xfd\x04\x00", r"d\.jsonl is a Zstandard file, not text: unpack it\.$"),
        (b"PK\x03\x04\x14\x00", r"d\.jsonl is a ZIP file, not text: unpack it\.$"),
    ],
    ids=["gzip", "zstd", "zip"],
)
def test_a_compressed_file_is_known_by_its_first_bytes(content: bytes, message: str, tmp_path: Path) -> None:
    file = write(tmp_path / "d.jsonl", content)
    with pytest.raises(ConfigError, match=message) as error:
        load(file)
    if name := re.search(r"rename it to (\S+)\.$", str(error.value)):
        assert load(file.rename(tmp_path / name[1]))


@pytest.mark.parametrize("rows", [{"0": GOOD, "1": {**GOOD, "question": "R?"}}, {"a": GOOD}, {"7": {"frage": "Q?"}}])
def test_a_mapping_of_names_to_rows_is_refused(rows: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"d\.json maps names to rows .*: write the rows as a list, "):
        load(write(tmp_path / "d.json", json.dumps(rows)))


LOST = (
    r"\frac{1}{2}", r"\forall x", r"$\beta$", r"\bar{3}", r"3\text{ cm}", r"2\times 3", r"\theta", r"a\neq b",
    r"\nabla", r"\right)", r"\rho_1", r"$\nu$", r"$a\to b$", r"$\tan x$", r"$\rangle$",
)  # fmt: skip


@pytest.mark.parametrize("key", ["question", "answer", "solution"])
def test_commands_whose_backslash_json_has_read_are_refused(key: str, tmp_path: Path) -> None:
    columns = {name: name for name in ("question", "answer", "solution")}
    for text in LOST:
        good = {**GOOD, "solution": "1"}
        bad = json.dumps({**good, key: "TEXT"}).replace("TEXT", text)  # one backslash
        file = write(tmp_path / "d.jsonl", bad.encode() + b"\n" + lines({**good, "question": "R?", key: text}))
        with pytest.raises(
            ConfigError, match=r"line 1: the .* \(double the backslashes: .*data.on_bad_row=skip"
        ) as error:
            load(file, columns=columns)
        assert f"the {key} (column {key!r}) has a" in str(error.value)
        assert [getattr(one, key) for one in load(file, columns=columns, on_bad_row="skip")] == [text]


def test_a_question_that_was_damaged_before_is_kept_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Row 983 of math_8k has such a command; doubling backslashes does not mend it."""
    row = {"question": "\\textbf{(A)} 1 \textbf{(B)} 2", "answer": "1"}
    assert load(write(tmp_path / "d.jsonl", lines(row)))[0].question == row["question"]
    assert r"line 1: the question has a tab in place of \t of \textbf; kept" in caplog.text
    with pytest.raises(ConfigError, match="double the backslashes"):
        load(write(tmp_path / "d.jsonl", lines({"question": "Q?", "answer": row["question"]})))


def test_line_breaks_and_tabs_before_words_are_text(tmp_path: Path) -> None:
    texts = [
        "Solve\nu + v = 3", "a:\tan apple\tto eat\ttop", "x\r\nright angle", "Find\nnot one\nnu\neither",
        "p\x0c\nThen\x0cTwo",
        "Sum $a +$\nu", "$\\alpha +\nu$", "A\nless\nparallel\nexists", "Un\tau revoir",
    ]  # fmt: skip
    rows = [{"question": text, "answer": "1"} for text in texts]
    assert [one.question for one in load(write(tmp_path / "d.jsonl", lines(*rows)))] == texts


LONG_SET = "{_target_: simplerl.data.sources.load_problems, _partial_: true, path: FOLDER/long.jsonl}"
LENGTHS: dict[str, list[str]] = {
    "response": ["sampling.max_new_tokens=200"],
    "prompt": ["prompt.max_tokens=300"],
    "both": ["prompt.max_tokens=300", "sampling.max_new_tokens=300"],
    "evaluation at the context": ["evals.sampling.max_new_tokens=256"],
    "evaluation below the context": ["evals.sampling.max_new_tokens=250"],
    "short limit of prompts": ["prompt.max_tokens=3"],
    "examples": ["evals=none", "prompt=question_answer_2shot", "prompt.max_tokens=200", "sampling.max_new_tokens=20"],
    "examples of evaluations": ["+prompt@evals.prompt=question_answer_2shot", "evals.sampling.max_new_tokens=240"],
    "a long set": [f"+evals.sets.long={LONG_SET}"],
    "a long set and long responses": [f"+evals.sets.long={LONG_SET}", "evals.sampling.max_new_tokens=250"],
    "passes": ["train.passes=0.0001", "train.steps=null"],
    "documents": ["warmup=micro_corpus", "warmup.data.count=8"],
    "long documents": ["warmup=micro_corpus", "warmup.data.count=200", "warmup.max_tokens=3"],
}  # fmt: skip


@pytest.mark.parametrize("name", LENGTHS)
def test_remedies_of_lengths_and_counts(name: str, tmp_path: Path) -> None:
    """Each alternative that a message proposes works, alone."""
    write(tmp_path / "long.jsonl", lines({"question": "x" * 3000, "answer": "1"}))
    base = ["data.count=64", "evals.sets.micro.count=4", "train.prompts_per_step=16"]
    given = [*base, *(one.replace("FOLDER", str(tmp_path)) for one in LENGTHS[name])]
    given = [one for one in given if not ("evals=none" in given and one.startswith("evals.sets"))]
    with pytest.raises(ConfigError) as error:
        prepare_task(load_config(composed(*given)))
    remedies = [
        re.findall(r"(?:~|\b)[a-z_]+\.[\w.]+(?:=\S+\b|=\[\])?", part) for part in alternatives(str(error.value))
    ]
    assert any(remedies)
    for remedy in filter(None, remedies):
        prepare_task(load_config(composed(*given, *remedy)))


def alternatives(message: str) -> list[str]:
    """Return the remedies of a message: the parts of what follows the last colon, without the reason."""
    return re.split(r",? or ", message.rpartition(": ")[2].partition(", because")[0])


SHOTS = ["prompt=question_answer_2shot", "prompt.max_tokens=200", "sampling.max_new_tokens=20"]


@pytest.mark.parametrize("shots", [True, False])
def test_no_value_is_proposed_if_none_helps(shots: bool, tmp_path: Path) -> None:
    write(tmp_path / "long.jsonl", lines({"question": "x" * 3000, "answer": "1"}))
    given = ["evals=heldout", f"evals.path={tmp_path}/long.jsonl", "data.count=64"]
    with pytest.raises(ConfigError, match=r": choose a model with a larger context, because") as error:
        prepare_task(load_config(composed(*given, *SHOTS * shots)))
    assert "such as" not in str(error.value)


def test_remedies_of_evaluation_sets_and_of_the_warm_up(tmp_path: Path) -> None:
    file = write(tmp_path / "d.jsonl", lines(GOOD, 5))
    held_out = ["evals=heldout", f"evals.path={file}"]
    with pytest.raises(ConfigError, match=r"skip such rows with evals.sets.heldout.on_bad_row=skip"):
        problems(*held_out, key="evals.sets.heldout")
    assert problems(*held_out, "evals.sets.heldout.on_bad_row=skip", key="evals.sets.heldout")
    write(file, lines({**GOOD, "solution": "1"}, 5))
    warmup = ["warmup=qwq_distill", f"warmup.data.path={file}"]
    with pytest.raises(ConfigError, match=r"skip such rows with warmup.data.on_bad_row=skip"):
        problems(*warmup, key="warmup.data")
    folder = folder_of(tmp_path / "suite", "amc23.jsonl")
    write(folder / "amc23.jsonl", lines({"problem": "Q?", "answer": 1}))
    suite = ["evals=suite8", f"evals.path={folder / 'amc23.jsonl'}"]
    with pytest.raises(ConfigError, match=r"is a file, but the benchmark amc23 reads amc23.jsonl in a folder") as error:
        problems(*suite, key="evals.sets.amc23")
    assert problems(*suite, remedy_in(str(error.value), suite), key="evals.sets.amc23")


def test_a_benchmark_names_no_setting_that_it_does_not_have(tmp_path: Path) -> None:
    """A file without the benchmark's columns is read as a file of one's own."""
    folder = folder_of(tmp_path / "suite", "aime24.jsonl")
    write(folder / "aime24.jsonl", lines({"problem": "Q?", "answer": 1}))
    suite, key = ["evals=suite8", f"evals.path={folder}"], "evals.sets.aime24"
    with pytest.raises(ConfigError, match=r"the benchmark aime24 reads 'solution', which it lacks") as error:
        problems(*suite, key=key)
    assert key not in str(error.value)
    own = re.findall(r"evals[\w.]*=\S+[^\s.]", str(error.value))
    assert problems(*own, key="evals.sets.heldout")
    write(folder / "aime24.jsonl", b'{"problem": "\xff"}')
    with pytest.raises(ConfigError, match=r"it is not UTF-8 text \(save it as UTF-8\); correct it\.$"):
        problems(*suite, key=key)


def test_skipping_is_proposed_only_if_rows_are_left(tmp_path: Path) -> None:
    for bad in (lines({"question": "Q?"}, {"question": "R?"}), lines({**GOOD, "answer": [1]}), b"3\n4"):
        with pytest.raises(ConfigError, match=r"no row is usable, so (set|correct) ") as error:
            load(write(tmp_path / "d.jsonl", bad))
        assert "on_bad_row" not in str(error.value)
        with pytest.raises(ConfigError, match=r"no row is usable, so (set|correct) "):
            load(write(tmp_path / "d.jsonl", bad), on_bad_row="skip")
        with pytest.raises(ConfigError, match=r"or skip such rows with data.on_bad_row=skip.$"):
            load(write(tmp_path / "d.jsonl", bad + b"\n" + lines(GOOD)))


def bad_signature(path: Path) -> Any:
    yield 1, GOOD


def misspelt(path: Path, encoding: str | None) -> Any:
    yield 1, GOOD
    yield 2, path.read_txt()  # type: ignore[attr-defined]


def rows_alone(path: Path, encoding: str | None) -> Any:
    yield GOOD


def damaged(path: Path, encoding: str | None) -> Any:
    yield 1, json.loads(path.read_text())


@pytest.mark.parametrize(
    ("reader", "message"),
    [
        (
            bad_signature,
            r"reader bad_signature fails at .*: bad_signature\(\) takes 1 .*: correct it; it is",
        ),
        (
            misspelt,
            r"reader misspelt fails at .*test_data.py:\d+ \(AttributeError: .*read_txt.*\): correct it",
        ),
        (rows_alone, r"the reader rows_alone yields \{'question.*: let it yield a row number and a dictionary\.$"),
        (damaged, r"d.own is not a valid Own file \(Expecting value.*\): copy or write it again\.$"),
    ],
)
def test_a_fault_of_an_own_reader_is_not_blamed_on_the_file(
    reader: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(readers.READERS, ".own", reader)
    with pytest.raises(ConfigError, match=message):
        load(write(tmp_path / "d.own", "no json"))


def test_a_mistake_in_the_row_of_a_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "mine.jsonl", lines(GOOD))
    for row, message in (
        (
            Benchmark(1, "question", "answer", "boxed"),
            r"BENCHMARKS\['mine'\] in .*py has answer_from='boxed', which",
        ),
        (
            Benchmark(1, "query", "answer", "text"),
            r"mine reads 'query', which it lacks .*: correct it, or the row",
        ),
        (
            Benchmark(1, "question", "answer", "last_box"),
            r"has no \\boxed\{\}; correct it, or the row 'mine' of B",
        ),
    ):
        monkeypatch.setitem(BENCHMARKS, "mine", row)
        with pytest.raises(ConfigError, match=message.replace(".*: correct it", ".*; correct it")):
            benchmark(name="mine", path=str(tmp_path))
    monkeypatch.setitem(BENCHMARKS, "mine", Benchmark(1, "question", "answer", "text"))
    assert len(benchmark(name="mine", path=str(tmp_path))) == 1


# Public data sets: the columns that they publish, with rows of our own


DAPO = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
    "$Answer (without quotes) where $Answer is the answer to the problem.\n\n{}\n\nRemember to put your answer on its "
    'own line after "Answer:".'
)
REASONED = {"role": "assistant", "content": "<think>\n3 and 4\n</think>\nIt is \\boxed{7}."}
# Option -> the file's name, a row for the question {q}, its answer 7, and its solution or None.
PUBLIC: dict[str, tuple[str, Any, str | None]] = {
    "simplerl_sft": (
        "sft.json", lambda q: {"problem": q, "answer": "7", "response": "Wait, \\boxed{7}."}, "Wait, \\boxed{7}."
    ),
    "dapo_17k": (
        "dapo-math-17k.parquet",
        lambda q: {
            "data_source": "math_dapo", "prompt": [user(DAPO.format(q))], "ability": "MATH",
            "reward_model": {"ground_truth": "7", "style": "rule-lighteval/MATH_v2"}, "extra_info": {"index": q},
        },
        None,
    ),
    "deepscaler": (
        "deepscaler.json", lambda q: {"problem": q, "answer": "7", "solution": "3 and 4."}, "3 and 4."
    ),
    "big_math": (
        "train.parquet",
        lambda q: {"problem": q, "answer": "7", "source": "gsm8k", "domain": ["Algebra"], "llama8b_solve_rate": 0.5},
        None,
    ),
    "orz_57k": (
        "orz_math_57k_collected.json",
        lambda q: [{"from": "human", "value": q}, {"from": "assistant", "ground_truth": {"value": "7"}}],
        None,
    ),
    "openr1": (
        "train.parquet",
        lambda q: {
            "problem": q, "solution": "3 and 4.", "answer": "7", "problem_type": "Algebra",
            "question_type": "math-word-problem", "source": "olympiads", "uuid": q, "generations": ["x", "y"],
            "correctness_math_verify": [True, False], "messages": [user(q), REASONED],
        },
        REASONED["content"],
    ),
    "verl": (
        "train.parquet",
        lambda q: {
            "data_source": "lighteval/MATH", "prompt": [user(q)], "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": "7"}, "extra_info": {"split": "train", "index": 0},
        },
        None,
    ),
    "verl_gsm8k": (
        "train.parquet",
        lambda q: {
            "data_source": "openai/gsm8k",
            "prompt": [user(f'{q} Let\'s think step by step and output the final answer after "####".')],
            "ability": "math", "reward_model": {"style": "rule", "ground_truth": "7"},
            "extra_info": {"split": "train", "index": 0, "answer": "<<3+4=7>>7\n#### 7", "question": q},
        },
        "7",
    ),
    "trl": (
        "train.jsonl", lambda q: {"prompt": [user(q)], "completion": [REASONED]}, REASONED["content"]
    ),
    "gsm8k": (
        "train.jsonl", lambda q: {"question": q, "answer": "3+4=<<3+4=7>>7\n#### 7"}, "3+4=7"
    ),
    "math": (
        "train.jsonl", lambda q: {"problem": q, "level": "Level 1", "type": "Algebra", "solution": "So $\\boxed{7}$."},
        "So $\\boxed{7}$.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLIC)
def test_public_data_sets_load_by_one_option(name: str, tmp_path: Path) -> None:
    file, row, solution = PUBLIC[name]
    rows = [row(f"What is {i} + {7 - i}?") for i in range(3)]
    path = tmp_path / file
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        write(path, json.dumps(rows) if path.suffix == ".json" else lines(*rows))
    found = problems(f"data={name}", f"data.path={path}")
    assert [problem.question for problem in found] == [f"What is {i} + {7 - i}?" for i in range(3)]
    assert {problem.answer for problem in found} == {"7"}
    assert {problem.solution for problem in found} == {solution}


def test_the_forms_of_trl_and_math(tmp_path: Path) -> None:
    """TRL also has plain texts and columns of golds; MATH is also published with a column of answers."""
    for option, row in {
        "trl": {"prompt": "Q?", "completion": "It is 7.\n#### 7"},
        "data.path=x data=trl": {"prompt": [user("Q?")], "ground_truth": 7, "tests": 1},
        "math": {"problem": "Q?", "solution": r"\boxed{8}", "answer": "7", "subject": "Algebra", "level": 1},
    }.items():
        path = write(tmp_path / "d.jsonl", lines(row))
        name = option.rpartition("=")[2]
        assert [problem.answer for problem in problems(f"data={name}", f"data.path={path}")] == ["7"]


def test_the_authors_distilled_set_is_one_option_of_the_warm_up() -> None:
    node = composed("warmup=qwq_distill", "data@warmup.data=simplerl_sft").warmup.data
    assert (node.path, node.columns.solution, node.on_bad_row) == ("AndrewZeng/SimpleRL-SFT", "guess", "skip")


@pytest.mark.parametrize("suffix", readers.READERS)
def test_a_pointer_of_git_lfs_is_named(suffix: str, tmp_path: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    with pytest.raises(
        ConfigError, match=rf"rows{suffix} is a pointer of Git LFS without the data: run `git lfs pull`"
    ):
        list(readers.read_file(write(tmp_path / f"rows{suffix}", pointer)))
