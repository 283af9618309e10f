"""The acceptance of a device and the benchmark of long responses, tried on a CPU with a small model."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch

from simplerl.bench import busy_cores, device_checks, gpu, long_responses
from simplerl.bench.device_checks import FAILED, PASSED, SKIPPED, Inputs, Row, limited
from simplerl.bench.shapes import MICRO, random_model, smollm2_shape
from simplerl.errors import ConfigError
from simplerl.planning.geometry import model_sizes

SIZES = (2, 2, 6, 6)


def inputs(name: str = "micro") -> Inputs:
    return Inputs(name, str(MICRO), "cpu", SIZES, 1)


def test_the_shape_is_that_of_smollm2() -> None:
    from transformers import AutoConfig

    shape = smollm2_shape()
    assert model_sizes(AutoConfig.for_model(shape.pop("model_type"), **shape)).parameters == 134_515_008
    assert smollm2_shape(layers=2, vocabulary=4) | smollm2_shape() == smollm2_shape()
    assert smollm2_shape(vocabulary=4)["vocab_size"] == 4 * smollm2_shape()["vocab_size"]


def test_a_limit_decides_the_verdict() -> None:
    assert limited("x", "micro", 0.1, 0.1).verdict == PASSED and limited("x", "micro", 0.2, 0.1).verdict == FAILED
    assert limited("x", "micro", float("nan"), 0.1).verdict == FAILED


@pytest.mark.skipif(torch.cuda.is_available(), reason="PyTorch finds a GPU")
def test_without_a_gpu_the_remedy_is_named() -> None:
    with pytest.raises(ConfigError, match="--device cuda: PyTorch finds no GPU: add --device cpu"):
        gpu.main([])


def test_a_check_that_raises_is_a_failed_row_and_the_next_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Inputs) -> list[Row]:
        raise RuntimeError("no kernel\nat line 3")

    monkeypatch.setitem(device_checks.CHECKS, "numerics", broken)
    monkeypatch.setitem(device_checks.CHECKS, "attention", lambda _: [limited("attention", "micro", 0, 1)])
    rows = [row for row in gpu.report("cpu", "", ["micro"], ["numerics", "attention"], True) if row.model]
    assert [(row.check, row.verdict) for row in rows] == [("numerics", FAILED), ("attention", PASSED)]
    assert rows[0].value == "RuntimeError: no kernel"


@pytest.mark.slow
def test_numerics_see_a_device_that_computes_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [row.verdict for row in device_checks.numerics(inputs())] == [PASSED] * 4
    real = Inputs.model

    def changed(self: Inputs, precision: object, device: str | None = None) -> object:
        model = real(self, precision, device)  # type: ignore[arg-type]
        if device is None:  # not the reference
            with torch.no_grad():
                model.get_output_embeddings().weight.mul_(1.5)
        return model

    monkeypatch.setattr(Inputs, "model", changed)
    assert FAILED in [row.verdict for row in device_checks.numerics(inputs())]


@pytest.mark.slow
def test_the_report_of_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "table.md"
    checks = ["numerics", "attention", "sampling", "training"]
    arguments = ["--device", "cpu", "--quick", "--models", "micro", "--checks", *checks, "--out", str(out)]
    assert gpu.main(arguments) == 0
    text = out.read_text()
    assert text.strip() == capsys.readouterr().out.strip()
    assert "0 of " in text and "| FAILED |" not in text
    for said in ("log-probs, float32 against CPU", "kernel math", "sampler local against trainer", "GiB, planned"):
        assert said in text
    assert SKIPPED in text  # at least one kernel is for GPUs alone


@pytest.mark.slow
def test_memory_of_an_update_grows_with_its_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = random_model(tmp_path / "model", layers=1)
    common = [folder, "--one", "--precision", "float32"]
    found = []
    for length in (64, 512):
        long_responses.main([*common, "--length", str(length)])
        found.append(json.loads(capsys.readouterr().out))
    assert 0 < found[0]["mib"] < found[1]["mib"] and all(one["cpu"] > 0 for one in found)


def test_a_measurement_that_fails_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = {64: {"seconds": 1.0, "cpu": 2.0, "mib": 32.0}, 128: {}}
    monkeypatch.setattr(long_responses, "in_process", lambda _, length=64, **__: cells[length])
    options = argparse.Namespace(lengths=[64, 128], groups=[1], samples=1, length=64)
    tables = long_responses.tables(options, None)
    assert [[cell.value for cell in row] for row in tables[0].rows] == [
        ["64", "1.00", "2.00", "32", "512.0"],
        ["128", "failed", "", "", ""],
    ]


@pytest.mark.slow
def test_settings_of_openmp_are_compared_beside_a_busy_process(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--responses", "8", "--tokens", "6", "--busy", "1", "--repeats", "1", "--settings", "spin 2000", "passive"]
    busy_cores.main([str(MICRO), *small])
    rows = [line for line in capsys.readouterr().out.splitlines() if "passive" in line or "spin 2000 " in line]
    assert len(rows) >= 2 and all(line.count("x") >= 2 for line in rows[-2:])
