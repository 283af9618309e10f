"""Loading problems: file formats, extraction rules, error messages, and the published data files."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from simplerl.data.benchmarks import BENCHMARKS
from simplerl.data.sources import benchmark, load_problems
from simplerl.errors import ConfigError
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


FORMATS = {
    "list.json": lambda p: write(p, json.dumps(ROWS)),
    "lines.json": lambda p: write(p, lines(*ROWS)),
    "lines.jsonl": lambda p: write(p, b"\xef\xbb\xbf" + lines(*ROWS) + b"\n\n"),
    "table.parquet": lambda p: (pq.write_table(pa.Table.from_pylist(ROWS), p), p)[1],
    "file.arrow": lambda p: write_arrow(p, stream=False),
    "stream.arrow": lambda p: write_arrow(p, stream=True),
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
BAD_FILES: dict[str, tuple[str, str | bytes, dict[str, Any], str]] = {
    "not JSON": ("d.jsonl", lines(GOOD) + b'\n{"question": ', {}, "d.jsonl, line 2: it is not valid JSON"),
    "not an object": ("d.jsonl", lines(GOOD, [1, 2]), {}, "d.jsonl, line 2: it is not an object with named columns"),
    "no such column": (
        "d.json", json.dumps([GOOD, {"prompt": "Q?", "answer": "1"}]), {},
        "d.json, row 2: columns.question=question names a column that this row does not have",
    ),
    "empty question": ("d.jsonl", lines({**GOOD, "question": "  "}), {}, "line 1: the question (column 'question') is"),
    "question no text": ("d.jsonl", lines({**GOOD, "question": 3}), {}, "the question (column 'question') is not text"),
    "null answer": ("d.jsonl", lines({**GOOD, "answer": None}), {}, "the answer (column 'answer') is empty (null)"),
    "empty answer": ("d.jsonl", b"\n" + lines({**GOOD, "answer": " "}), {}, "line 2: the answer is empty; correct it"),
    "list answer": ("d.jsonl", lines({**GOOD, "answer": ["1"]}), {}, "(column 'answer') is a list, not text"),
    "NaN answer": ("d.jsonl", '{"question": "Q?", "answer": NaN}', {}, "line 1: the answer (column 'answer') is nan"),
    "no hashes": ("d.jsonl", lines(GOOD), {"answer_from": "after_hashes"}, "the answer (column 'answer') has no ####"),
    "no box": ("d.jsonl", lines(GOOD), {"answer_from": "last_box"}, r"the answer (column 'answer') has no \boxed{}"),
    "not UTF-8": ("d.jsonl", lines(GOOD) + b'\n{"question": "\xff?"}', {}, "line 2: it is not UTF-8 text"),
    "no rows": ("d.jsonl", "\n", {}, "d.jsonl has no usable rows"),
    "one object": ("d.json", json.dumps({"data": [GOOD]}), {}, "holds one object, not a list of rows"),
    "broken JSON list": ("d.json", "[{]", {}, "d.json is not valid JSON: Expecting property name"),
    "endless number": ("d.jsonl", '{"question": "Q?", "answer": ' + "9" * 5000 + "}", {}, "line 1: it cannot be read"),
    "endless number in a list": ("d.json", '[{"answer": ' + "9" * 5000 + "}]", {}, "d.json cannot be read: Exceeds"),
    "not Parquet": ("d.parquet", "PAR0", {}, "d.parquet is not a valid Parquet file"),
    "not Arrow": ("d.arrow", "ARROWED", {}, "d.arrow is not a valid Arrow file"),
    "unknown format": ("d.csv", "question,answer", {}, "d.csv has an unsupported format"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_raise_a_one_line_error(name: str, tmp_path: Path) -> None:
    file, content, keywords, message = BAD_FILES[name]
    with pytest.raises(ConfigError) as error:
        load(write(tmp_path / file, content), **keywords)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


BAD_SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "no answer column": ({"columns": {"question": "q"}}, "columns.answer is missing"),
    "unknown column": ({"columns": {**COLUMNS, "hint": "h"}}, "columns.hint is unknown"),
    "null column": ({"columns": {"question": "q", "answer": None}}, "columns.answer is missing"),
    "column by number": ({"columns": {"question": "q", "answer": 1}}, "columns.answer=1 must be a column name"),
    "levels without column": ({"levels": [3]}, "levels needs columns.level"),
    "no such level": (
        {"levels": [9], "columns": {**COLUMNS, "level": "level"}}, "its levels, which are 3, 4, 5",
    ),
    "answer_from": ({"answer_from": "hashes"}, "answer_from=hashes is unknown: choose one of text"),
    "on_bad_row": ({"on_bad_row": "ignore"}, "on_bad_row=ignore is unknown: choose one of raise, skip"),
    "limit": ({"limit": 0}, "limit=0 keeps no problem"),
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


def test_a_folder_without_a_saved_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"datasets.save_to_disk did not write"):
        load(tmp_path)


def test_a_missing_split_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no split 'test': choose one of train"):
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
    assert done.stdout.startswith("The Hub data set simplerl-tests/absent (split train) cannot be loaded: ")


def test_skipped_rows_are_logged_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "d.jsonl", lines(GOOD, {"question": "Q2?"}, 5, {"question": "R?", "answer": 3}))
    with caplog.at_level(logging.WARNING):
        found = load_problems(path=str(path), columns=COLUMNS, on_bad_row="skip")
    assert [p.answer for p in found] == ["1", "3"]
    assert (found.report["rows"], found.report["bad"], found.report["kept"]) == (4, 2, 2)
    assert "d.jsonl, line 2: columns.answer=answer names a column that this row does not have" in caplog.text
    with pytest.raises(ConfigError, match=r"line 1: it is not an object.*no row is usable"):
        load(write(tmp_path / "all.jsonl", "5"), on_bad_row="skip")


def test_ungradable_rows_are_refused_kept_or_excluded(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", lines(GOOD, {"question": "No gold?", "answer": ""}))
    assert [p.answer for p in load(path, ungradable="keep")] == ["1", ""]
    assert [p.answer for p in load(path, ungradable="exclude")] == ["1"]


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


@pytest.mark.parametrize("name", BENCHMARKS)
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
    with pytest.raises(ConfigError, match=r"name=amc24 is unknown: choose one of gsm8k, math500"):
        benchmark(name="amc24", path=str(tmp_path))
    write(tmp_path / "gsm8k.jsonl", lines({"question": "Q?", "answer": "no mark"}))
    with pytest.raises(ConfigError, match=r"gsm8k.jsonl, line 1: the answer \(column 'answer'\) has no ####"):
        benchmark(name="gsm8k", path=str(tmp_path))


def test_a_custom_held_out_file(tmp_path: Path) -> None:
    """evals=heldout reads it like the training file; worked solutions as gold answers are refused."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from simplerl.config import register
    from simplerl.config.load import load

    rows = [{"q": f"What is {i} + 1?", "a": f"It is {i + 1}.\n#### {i + 1}"} for i in range(4)]
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = ["data=jsonl", f"data.path={tmp_path}/train.jsonl", "data.columns.question=q", "data.columns.answer=a"]
    own += ["evals=heldout", f"evals.path={tmp_path}/test.jsonl"]

    def config(*overrides: str) -> Any:
        register()
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            raw = compose("config", overrides=[*own, *overrides])
        OmegaConf.set_struct(raw, False)
        return load(raw)

    with pytest.raises(ConfigError, match=r"4 of 4 answers are worked solutions .* set data.answer_from=after_hashes"):
        config().data()
    read = config("data.answer_from=after_hashes")
    assert [problem.answer for problem in read.data()] == ["1", "2", "3", "4"]
    assert [problem.answer for problem in read.evals.sets["heldout"]()] == ["1", "2", "3", "4"]
