"""The whole study of durable unlearning: every part in turn, each of which goes on where it was cut off.

    python -m tests.reproductions.durableun_study

Budgets of passes are declared in each part. On two cores the small models take an hour or two, SmolLM2-135M a day.
What they found is told in docs/study.md.
"""

from __future__ import annotations

import subprocess
import sys

from .smollm2_study import MAIN, OWN, RETRAINED

PARTS_OF_OURS = [name for name, own in OWN.items() if "method" in own]
OTHERS = [name for name in OWN if name not in (*MAIN, *PARTS_OF_OURS)]
PARTS: tuple[tuple[str, ...], ...] = (
    ("durableun_table", "3"),
    ("recovery_study",),
    ("trilemma_study",),
    ("smollm2_study", "--methods", *MAIN, RETRAINED, *PARTS_OF_OURS),
    ("smollm2_study", "--methods", *OTHERS, "--seeds", "0"),
    ("smollm2_study", "--methods", "npo", "durable", "--seeds", "0", "--backends"),
    ("smollm2_study", "--world", "tofu", "--methods", *MAIN, *PARTS_OF_OURS, "--seeds", "0"),
    ("flat_forgetting",),
)


def main() -> None:
    for name, *arguments in PARTS:
        print(f"{name} {' '.join(arguments)}", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", f"tests.reproductions.{name}", *arguments], check=True)


if __name__ == "__main__":
    main()
