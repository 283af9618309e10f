"""Runs every benchmark that compares speed, each in a separate process so that threads and memory are not shared:

    python -m simplerl.bench [FOLDER]

They use the micro base model and, if its folder is given, SmolLM2-135M (`python -m simplerl.bench.smollm2 FOLDER`).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence

MICRO = "assets/micro_base"


def run(module: str, *arguments: str) -> None:
    print(f"\n$ python -m {module} {' '.join(arguments)}", flush=True)
    subprocess.run([sys.executable, "-m", module, *arguments], check=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m simplerl.bench", description="Run every speed benchmark.")
    parser.add_argument("folder", nargs="?", help="SmolLM2-135M, made by python -m simplerl.bench.smollm2")
    folder = parser.parse_args(arguments).folder
    for model, responses, precision in ((MICRO, "256", "float32"), (folder, "64", "bfloat16")):
        for benchmark in ("sampling", "rl_step", "update") if model else ():
            run(f"simplerl.bench.{benchmark}", model, "--responses", responses, "--precision", precision)


if __name__ == "__main__":
    main()
