"""Say how a run differs from a recipe or from another run:

    python -m analysis.diff RUN RUN2
    python -m analysis.diff RUN experiment=NAME [KEY=VALUE ...]

It compares settings, digests of data, weights and rewards, prompts, code, package versions and machine; what can change
results comes first. Versions, machine and digests of a recipe are those of this installation. The exit status is 0 if
nothing that can change results differs, 1 if something does, and 2 after an error."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from analysis.commands import make_parser, print_notes, reports_source_errors
from analysis.folders import EVALUATED, EVALUATION, evaluation_folders, naming, read_json, read_responses, rollout_files
from analysis.run_data import SourceError
from simplerl.cli import hydra_error_message
from simplerl.config import register
from simplerl.config.load import load
from simplerl.config.secrets import hide_secrets
from simplerl.data.inputs import describe_input, input_digests
from simplerl.data.task import Task, prepare_task
from simplerl.errors import ConfigError
from simplerl.io.files import read_yaml
from simplerl.io.places import CONF, options_in
from simplerl.io.tables import Table, markdown, text_cells
from simplerl.io.terminal import terminal
from simplerl.runs.identity import result_settings
from simplerl.runs.provenance import RENDERED_PROMPTS, environment, reward_digests

NEUTRAL = "does not change results"
TRAINING = "training"
ABSENT = "not set"
# Keys of environment.json, in the words of the table, and their group.
RECORDED = {
    "reward": ("source of the reward", "data and weights"),
    "evaluation_reward": ("source of the evaluation's grader", "data and weights"),
    "commit": ("commit of the code", "code and versions"),
    "modified": ("uncommitted changes of the code", "code and versions"),
    "version": ("version of SimpleRL", "code and versions"),
    "source": ("source of the installed package", "code and versions"),
    "python": ("Python", "code and versions"),
    "cpu": ("CPU", "machine"),
    "gpus": ("GPUs", "machine"),
    "host": ("host", NEUTRAL),
}
NOT_ALWAYS = ("gpus", "version", "source")  # recorded since 0.2.0, by an installed package, or if there are any
GROUPS = ("settings", "data and weights", "prompt", "code and versions", "machine", NEUTRAL)
TITLES = (
    "Settings",
    "Data, weights and rewards (digests)",
    "Prompts",
    "Code and versions",
    "Machine",
    "Without effect on results",
)


@dataclass(frozen=True)
class Side:
    """Holds what one side of the comparison has recorded: settings by dotted key, environment.json, and prompts as set
    -> problem id -> prompt; the training set is named TRAINING."""

    name: str
    config: dict[str, Any]
    environment: dict[str, Any]
    prompts: dict[str, dict[str, str]]
    evaluation: bool = False  # evaluate.py wrote it, so the settings of training do not matter
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Entry:
    """Holds one difference: its group (one of GROUPS), what differs, and the value on both sides."""

    group: str
    what: str
    first: str
    second: str


def side_of_run(folder: Path) -> Side:
    """Return the side of a run folder. Raises SourceError if `folder` is not a run folder."""
    if not (folder / "config.yaml").is_file():
        raise SourceError(f"{folder} is not a run folder: name one with a config.yaml, or overrides such as seed=1.")
    with naming(folder):
        config, status = read_yaml(folder / "config.yaml"), read_json(folder / "status.json")
        recorded = read_json(folder / "environment.json")
        prompts: dict[str, dict[str, str]] = {}
        for file in list(rollout_files(folder).values())[:1]:
            table = read_responses(file, ["problem_id", "prompt"])
            prompts[TRAINING] = dict(zip(table["problem_id"], table["prompt"], strict=True))
        for place in list(evaluation_folders(folder).values())[:1]:
            table = read_responses(place / "samples.parquet", ["set", "problem_id", "prompt"])
            for name, rows in table.groupby("set", sort=False):
                prompts[str(name)] = dict(zip(rows["problem_id"], rows["prompt"], strict=True))
    return Side(str(folder), config, recorded, prompts, status.get("kind") == EVALUATION)


def side_of_recipe(overrides: Sequence[str], conf: Path | None = None) -> Side:
    """Return the side of a configuration, composed from overrides as on the command line of train.py. conf: a
    folder with options beside those of conf/.

    Its data are read for their digests and prompts; a note says why if that is impossible on this machine."""
    raw = _composed([*options_in(conf), *overrides])
    resolved: dict[str, Any] = OmegaConf.to_container(raw, resolve=True, enum_to_str=True)  # type: ignore[assignment]
    recorded, prompts, notes = environment(), dict[str, dict[str, str]](), []
    try:
        config = load(raw)
        recorded |= reward_digests(config)
        task = prepare_task(config)
        recorded["inputs"], prompts = input_digests(config, resolved, task), _prompts(task)
    except (ConfigError, OSError) as error:
        notes.append(f"data, weights and prompts of B are not compared, as they cannot be read here: {error}")
    return Side(" ".join(overrides), hide_secrets(resolved), recorded, prompts, notes=notes)


def _composed(overrides: Sequence[str]) -> DictConfig:
    register()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            raw = compose("config", list(overrides), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise SourceError(hydra_error_message(error)) from error
    choices = {group: str(choice) for group, choice in raw.hydra.runtime.choices.items() if "hydra/" not in group}
    OmegaConf.set_struct(raw, False)
    OmegaConf.set_readonly(raw, False)
    del raw["hydra"]
    raw.choices = choices
    return raw


def _prompts(task: Task) -> dict[str, dict[str, str]]:
    sets = {TRAINING: task.prompts, **task.evals.prompts}
    return {name: {prompt.problem.id: prompt.text for prompt in prompts} for name, prompts in sets.items()}


def find_entries(one: Side, two: Side) -> list[Entry]:
    """Return all differences, grouped in the order of GROUPS."""
    found = [*_settings(one, two), *_inputs(one, two), *_environment(one, two), *_prompt_entries(one, two)]
    return sorted(found, key=lambda entry: GROUPS.index(entry.group))


def _settings(one: Side, two: Side) -> list[Entry]:
    sides = [_flat(side.config) for side in (one, two)]
    relevant = [_flat(result_settings(side.config)) for side in (one, two)]
    found = []
    for key in dict.fromkeys([*relevant[0], *relevant[1], *sides[0], *sides[1]]):
        counts = key in relevant[0] or key in relevant[1]
        if (one.evaluation or two.evaluation) and not EVALUATED.match(key):
            continue
        if not counts and key.startswith("algorithm.shape."):  # compared as a list, because its order matters
            continue
        if key.endswith("._partial_"):
            continue
        values = [_text(side.get(key, ABSENT)) for side in (relevant if counts else sides)]
        if values[0] != values[1]:
            found.append(Entry("settings" if counts else NEUTRAL, key, *values))
    return _joined(found, sides)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of a nested mapping by dotted key; an empty mapping counts as a value."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        nested = isinstance(value, Mapping) and value
        flat |= _flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def _joined(entries: Sequence[Entry], sides: Sequence[Mapping[str, Any]]) -> list[Entry]:
    """Join the settings of a part that one side lacks altogether, such as a role, into one entry."""
    joined: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        part, lacking = entry.what, [side for side in sides if entry.what not in side]
        while lacking and "." in part:
            above = part.rpartition(".")[0]
            if any(key == above or key.startswith(f"{above}.") for key in lacking[0]):
                break
            part = above
        joined.setdefault((entry.group, part), []).append(entry)
    found = []
    for (group, part), own in joined.items():
        first = _values(part, [(one.what, one.first) for one in own])
        second = _values(part, [(one.what, one.second) for one in own])
        found.append(Entry(group, part if len(own) > 1 else own[0].what, first, second))
    return found


def _values(part: str, pairs: Sequence[tuple[str, str]]) -> str:
    """Return the values of (key, value) pairs as one text: the value alone if there is a single pair or all values are
    ABSENT, otherwise "name=value, ...", with names below the key `part`."""
    if len(pairs) == 1 or {value for _, value in pairs} == {ABSENT}:
        return pairs[0][1]
    return ", ".join(f"{key.removeprefix(f'{part}.')}={value}" for key, value in pairs)


def _text(value: Any) -> str:
    """Return a value in one line."""
    if value is None:
        return "null"
    return repr(value) if isinstance(value, str) and ("\n" in value or value != value.strip()) else str(value)


def _inputs(one: Side, two: Side) -> list[Entry]:
    """Return the inputs whose digests differ. The rendered prompts are named only if they are the only difference,
    because they are made from the other inputs and from the prompt."""
    sides: list[Mapping[str, str]] = [side.environment.get("inputs") or {} for side in (one, two)]
    if not all(sides):
        return []
    names = [name for name in dict.fromkeys([*sides[0], *sides[1]]) if sides[0].get(name) != sides[1].get(name)]
    if one.evaluation or two.evaluation:
        names = [name for name in names if name in sides[0] and name in sides[1]]
    names = [name for name in names if name != RENDERED_PROMPTS] or names
    values = [[side.get(name, "not read") for side in sides] for name in names]
    return [Entry("data and weights", describe_input(name), *pair) for name, pair in zip(names, values, strict=True)]


def _environment(one: Side, two: Side) -> list[Entry]:
    """Return the differences in what both sides recorded about code, versions, rewards and machine."""
    sides = [_recorded(side.environment) for side in (one, two)]
    shared = [key for key in {**sides[0], **sides[1]} if key in sides[0] and key in sides[1]]
    found = [Entry(*RECORDED[key][::-1], sides[0][key], sides[1][key]) for key in RECORDED if key in shared]
    packages = [side.environment.get("packages") for side in (one, two)]
    if all(isinstance(part, dict) for part in packages):
        names = dict.fromkeys([*packages[0], *packages[1]])  # type: ignore[misc]
        versions = [[str(part.get(name, "not installed")) for part in packages] for name in names]  # type: ignore[union-attr]
        found += [Entry("code and versions", name, *pair) for name, pair in zip(names, versions, strict=True)]
    return [entry for entry in found if entry.first != entry.second]


def _recorded(known: Mapping[str, Any]) -> dict[str, str]:
    machine = known.get("machine") if isinstance(known.get("machine"), dict) else {}
    values = {**known, **(machine or {})}
    if "gpus" in values:
        values["gpus"] = ", ".join(f"{count} x {gpu}" for gpu, count in Counter(values["gpus"]).items()) or "none"
    if values.get("commit"):
        values["commit"] = str(values["commit"])[:12]
    return {key: str(values[key]) for key in RECORDED if values.get(key) not in (None, "")}


def _prompt_entries(one: Side, two: Side) -> list[Entry]:
    """Return, for each set, the first prompt that differs for the same problem or, without a common problem, the first
    prompts."""
    found = []
    for name in (name for name in one.prompts if two.prompts.get(name)):
        mine, other = one.prompts[name], two.prompts[name]
        shared = [problem for problem in mine if problem in other]
        differing = [problem for problem in shared if mine[problem] != other[problem]]
        if differing:
            what = f"{name}: {len(differing)} of {len(shared)} common problems; that of {differing[0]}"
            found.append(Entry("prompt", what, repr(mine[differing[0]]), repr(other[differing[0]])))
        elif not shared:
            first = [repr(next(iter(prompts.values()), "")) for prompts in (mine, other)]
            found.append(Entry("prompt", f"{name}: no common problem; the first prompts", *first))
    return found


def not_recorded(one: Side, two: Side) -> list[str]:
    """Return a note for each side on what it did not record."""
    notes = []
    for letter, side in (("A", one), ("B", two)):
        known = _recorded(side.environment)
        absent = [words for key, (words, _) in RECORDED.items() if key not in {*known, *NOT_ALWAYS}]
        absent += [] if side.environment.get("inputs") or side.notes else ["digests of inputs"]
        if absent:
            notes.append(f"{letter} did not record, so not compared: {', '.join(absent)}.")
    return [*one.notes, *two.notes, *notes]


def entry_tables(entries: Sequence[Entry]) -> list[Table]:
    """Return a table for each group that has a difference."""
    tables = []
    for group, title in zip(GROUPS, TITLES, strict=True):
        rows = [text_cells([one.what, one.first, one.second]) for one in entries if one.group == group]
        if rows:
            tables.append(Table(group.replace(" ", "_"), title, ["", "A", "B"], rows, align="lll", boxed=False))
    return tables


@reports_source_errors
def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser("diff", __doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder (A)")
    parser.add_argument(
        "other", nargs="+", metavar="RUN2|KEY=VALUE", help="another run folder, or the overrides of a recipe (B)"
    )
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables")
    parser.add_argument("--config-dir", metavar="DIR", type=Path, help="options of your own beside conf/")
    chosen = parser.parse_args(arguments)
    one = side_of_run(chosen.run)
    is_run = len(chosen.other) == 1 and "=" not in Path(chosen.other[0]).name
    two = side_of_run(Path(chosen.other[0])) if is_run else side_of_recipe(chosen.other, chosen.config_dir)
    entries = find_entries(one, two)
    count = sum(entry.group != NEUTRAL for entry in entries)
    print(f"A: {one.name}\nB: {two.name}")
    console = terminal(120)
    for table in entry_tables(entries):
        if chosen.markdown:
            print(f"\n{markdown(table)}")
        else:
            console.print(table)
    print_notes(not_recorded(one, two))
    noun = "difference" if count == 1 else "differences"
    print(f"{count} {noun} that can change results, {len(entries) - count} without effect.")
    return int(count > 0)


if __name__ == "__main__":
    sys.exit(main())
