"""The documentation agrees with the code: commands compose, links lead somewhere, generated pages are up to date."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from composing import composed
from hydra.core.override_parser.overrides_parser import OverridesParser

from simplerl.config import reference, schema
from simplerl.config.hints import FOREIGN
from simplerl.config.load import load
from simplerl.types import Problem, Response, Score

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
PLACEHOLDER = re.compile(r"-sc |\.\.\.|\$|\[|=(NAME|FILE|OVERRIDES)\b|\b(OVERRIDES|KEY)\b")
LAUNCHED_BY = re.compile(r"python (?:train|evaluate|distill)\.py(?: |$)([^`#>;]*)")


def commands(text: str) -> list[str]:
    """Return the arguments of train.py, evaluate.py and distill.py in the commands of a page without placeholders."""
    code = re.findall(r"```[a-z]*\n(.*?)```|^ {4}(\S.*)$|`([^`\n]+)`", text, re.DOTALL | re.MULTILINE)
    lines = "\n".join("".join(groups) for groups in code).replace("\\\n", " ").splitlines()
    found = [match[1].strip() for line in lines if (match := LAUNCHED_BY.search(line))]
    return [one for one in found if not PLACEHOLDER.search(one)]


def own_options(text: str) -> set[str]:
    """Return the options group=name that a page tells the reader to write, as a new file conf/group/name.yaml."""
    named = set(re.findall(r"conf/([\w/]+)/(\w+)\.yaml", text))
    return {f"{group}={name}" for group, name in named if not (ROOT / f"conf/{group}/{name}.yaml").exists()}


def single(override: str) -> list[str]:
    """Return the overrides of the values of a sweep over one key, or the override itself."""
    parsed = OverridesParser.create().parse_override(override)
    if not parsed.is_sweep_override():
        return [override]
    return [f"{parsed.get_key_element()}={value}" for value in parsed.sweep_string_iterator()]


WITH_COMMANDS = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
CASES = sorted({(str(path.relative_to(ROOT)), one) for path in WITH_COMMANDS for one in commands(path.read_text())})


def test_pages_have_commands() -> None:
    assert len(CASES) > 20


@pytest.mark.parametrize(("page", "command"), CASES)
def test_a_command_composes(page: str, command: str) -> None:
    own = own_options((ROOT / page).read_text())
    words = [word for word in shlex.split(command) if "=" in word and not word.startswith("-")]
    known = [word for word in words if not word.startswith("hydra.launcher.")]
    written = [[value for value in single(word) if value not in own] for word in known]
    choices = [values for values in written if values]
    composed(*(values[0] for values in choices))
    for i, values in enumerate(choices):
        for value in values[1:]:
            composed(*(other[0] for other in choices[:i]), value, *(other[0] for other in choices[i + 1 :]))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", path.read_text()):
        assert re.match(r"https?://", target) or (path.parent / target).exists(), target


def test_every_page_is_in_the_navigation() -> None:
    listed = re.findall(r"\w+\.md", str(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert sorted(listed) == [path.name for path in PAGES]


def test_the_configuration_reference_is_up_to_date() -> None:
    assert reference.PAGE.read_text() == reference.page(), f"run {reference.COMMAND}"


def cells(page: str, header: str) -> list[list[str]]:
    """Return the rows of the table whose header line begins with `header`, as cells without backticks."""
    lines = (DOCS / page).read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(header))
    rows = []
    for line in [lines[start], *lines[start + 2 :]]:
        if not line.startswith("|"):
            break
        row = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        rows.append([cell[1:-1] if cell.startswith("`") and cell.count("`") == 2 else cell for cell in row])
    return rows


def reward(option: str, *overrides: str) -> Callable[..., Score]:
    return load(composed(f"reward={option}", *overrides)).reward


@pytest.mark.parametrize("header", ["| response | `strict`", "| response | `r1`"])
def test_rewards_of_the_documented_responses(header: str) -> None:
    (_, *options), *rows = cells("rewards.md", header)
    functions = [reward(option.strip("`")) for option in options]
    for response, *expected in rows:
        scores = [function(Response(response), Problem("1", "", "4")) for function in functions]
        assert [score.reward for score in scores] == list(map(float, expected)), response


def test_verdicts_of_the_documented_rules() -> None:
    (_, _, *rules), *rows = cells("rewards.md", "| answer | gold |")
    functions = [reward("strict", f"reward.rule={rule.partition(' ')[0].strip('`')}") for rule in rules]
    for answer, gold, *expected in rows:
        verdicts = [f(Response(rf"\boxed{{{answer}}}"), Problem("1", "", gold, "math")).correct for f in functions]
        assert ["+" if verdict else "-" for verdict in verdicts] == expected, (answer, gold)


def test_values_of_the_documented_rewards() -> None:
    for name, correct, wrong, unboxed, _ in cells("rewards.md", "| `reward=` | correct |")[1:4]:
        texts = [r"\boxed{4}", r"\boxed{5}", "It is 4."]
        scores = [reward(name)(Response(text), Problem("1", "", "4")).reward for text in texts]
        assert scores == [float(correct), float(wrong), float(unboxed)], name


OTHER = {"warmup/checkpoints", "warmup/step"}  # a folder, and W&B's step
WRITTEN = {  # where metrics are named: file -> pattern of a name, and what stands before it
    "algorithms/losses.py": (r'"(\w+)": ', "<role>/"),
    "algorithms/kl.py": (r'"(kl_\w+)": ', "<role>/"),
    "algorithms/shaping.py": (r'add_reward\(\w+, "(\w+)"', "reward/"),
    "engine/optimizer.py": (r'return \{"(grad_norm)": .*?, "(lr)"', "<role>/"),
    "engine/worker.py": (r'means\["(\w+)"\]', "<role>/"),
    "evals/evaluate.py": (r'metrics\["(\w+)"\]|^ {8}"(\w+_share)": np', "eval/<set>/"),
    "evals/behaviour.py": (r'^    "(\w+)": \w+,$', "rollout/"),
    "rl.py": (r'stage\("(\w+)"\)', "time/"),
    "rewards/__init__.py": (r'parts = \{"(\w+)": .*?, "(\w+)"', "reward/"),
}
FULL_NAME = re.compile(r'f?"((?:rollout|reward|train|policy|critic|correction|time|memory|warmup)/[\w{}]+)"')


def names_in_the_code() -> set[str]:
    """Return the names of metrics that the source writes, with <role> and <set> for what is only known in a run."""
    package, found = ROOT / "simplerl", set[str]()
    for path in package.rglob("*.py"):
        if path.parent.name not in ("bench", "planning", "config"):
            found |= {name for name in FULL_NAME.findall(path.read_text()) if "{" not in name}
            found |= set(re.findall(r'"([a-z_]+/[a-z_]+)": ', path.read_text()))  # of any group, as the key of a dict
    for name, (pattern, prefix) in WRITTEN.items():
        groups = re.findall(pattern, (package / name).read_text(), re.MULTILINE)
        assert groups, f"no metric found in {name}"
        found |= {f"{prefix}{one}" for group in groups for one in ([group] if isinstance(group, str) else group) if one}
    return {name for name in found if name.count("/") < 2 or name.startswith("eval/")} - OTHER


def documented_metrics() -> set[str]:
    rows = [line for line in (DOCS / "metrics.md").read_text().splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([\w<>@]+/[\w<>@/]+)`", row.split(" | ")[0])}


def is_documented(name: str, known: set[str]) -> bool:
    """Return whether a metric has a line, as it is or with its role, set, number or part replaced."""
    group, _, leaf = name.partition("/")
    forms = {
        name,
        re.sub(r"^eval/[^/]+/", "eval/<set>/", name),
        re.sub(r"^memory/\w+?_(host|gpu)", r"memory/<role>_\1", name),
    }
    forms |= {re.sub(r"@\d+$", f"@<{k}>", form) for form in forms for k in "kn"}
    if group not in ("rollout", "reward", "train", "time", "correction", "eval", "memory", "warmup"):
        forms |= {f"<role>/{leaf}", f"policy/{leaf}"}
        forms |= {f"{role}/{leaf}" for role in ("critic", "prm")} if group == "<role>" else set()
    return bool(forms & known)


def test_every_metric_is_documented() -> None:
    known = documented_metrics()
    recorded = json.loads((ROOT / "tests/golden/metric_names.json").read_text())
    names = names_in_the_code() | {name for names in recorded.values() for name in names}
    missing = {name for name in names if not is_documented(name.removeprefix("<role>/rollout"), known)}
    assert missing == set(), "add a line to docs/metrics.md"


def test_the_migration_table_is_what_the_command_line_answers() -> None:
    header, *rows = cells("migration.md", "| TRL | verl | here |")
    table = {}
    for *theirs, ours, _ in rows:
        for cell in theirs:
            table |= dict.fromkeys((name for name in re.split(r"[`,\s]+", cell) if name), ours)
    assert header[2] == "here" and table == FOREIGN


ROWS = re.findall(
    r"^## `(\w+)`\n.*?```json\n(.*?)\n```\n\nWith (.*?): question `(.*?)`, answer `(.*?)`\.",
    (DOCS / "data.md").read_text(),
    re.DOTALL | re.MULTILINE,
)


@pytest.mark.parametrize(("name", "row", "overrides", "question", "answer"), ROWS, ids=[row[0] for row in ROWS])
def test_a_documented_row_of_data(
    tmp_path: Path, name: str, row: str, overrides: str, question: str, answer: str
) -> None:
    """JSON stands for the Parquet files of the Hub, whose rows have the same columns."""
    file = tmp_path / "rows.json"
    file.write_text(f"[{row}]")
    (problem,) = load(composed(*re.findall(r"`(\S+)`", overrides), f"data.path={file}", "data.hub=null")).data()
    assert (problem.question, problem.answer) == (question, answer)


def test_every_mapping_of_data_has_a_row() -> None:
    mappings = {path.stem for path in (ROOT / "conf/data").glob("*.yaml")}
    assert mappings - {row[0] for row in ROWS} == {
        "micro",
        "sums",
        "reasoning_gym",
        "solve_rate",
        "zoo_medium",
        "zoo_hard",
    }


def test_every_setting_has_a_meaning() -> None:
    """A comment in simplerl/config/schema.py is the meaning of a setting in the reference."""
    comments = reference.comments_of(schema)
    assert [key for key, text in comments.items() if not text] == []


def test_every_option_of_a_command_is_documented() -> None:
    text = (DOCS / "commands.md").read_text()
    files = [
        ROOT / "sweep.py",
        ROOT / "simplerl/grade.py",
        ROOT / "simplerl/audit.py",
        *(ROOT / "analysis").glob("*.py"),
    ]
    for file in files:
        for option in re.findall(r'add_argument\(\s*"(--[\w-]+)"', file.read_text()):
            assert f"| `{option}`" in text or f", `{option}`" in text, (file.name, option)
    with_main = {path.stem for path in (ROOT / "analysis").glob("*.py") if "def main" in path.read_text()}
    assert with_main == set(re.findall(r"python -m analysis\.(\w+)", text))
