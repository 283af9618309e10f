"""Every benchmark on the micro base, and on SmolLM2-135M where its folder is given: python -m simplerl.bench [FOLDER].

A process each, so that one's threads and memory do not disturb the next. Make the folder with
`python -m simplerl.bench.smollm2 FOLDER`.
"""

from __future__ import annotations

import subprocess
import sys

MICRO = "assets/micro_base"


def run(module: str, *arguments: str) -> None:
    print(f"\n$ python -m {module} {' '.join(arguments)}", flush=True)
    subprocess.run([sys.executable, "-m", module, *arguments], check=True)


def main() -> None:
    run("simplerl.bench.sampling", f"model={MICRO}", "rows=256", "tokens=64")
    run("simplerl.bench.rl_step", MICRO, "--responses", "256", "--tokens", "64")
    run("simplerl.bench.update", MICRO, "--responses", "256", "--precision", "float32")
    for folder in sys.argv[1:2]:
        bfloat16 = "--precision", "bfloat16"
        run("simplerl.bench.sampling", f"model={folder}", "rows=64", "tokens=64", "precision=bfloat16")
        run("simplerl.bench.rl_step", folder, "--responses", "64", "--tokens", "64", *bfloat16)
        run("simplerl.bench.update", folder, *bfloat16)


if __name__ == "__main__":
    main()
