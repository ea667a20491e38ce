"""Builds the native kernel ahead of time: ``python -m model_registry.attention.build [DIRECTORY]``.

Without an argument every variant of this machine's architecture goes beside the sources, where the package looks
first; a machine without a compiler then needs none.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path

from model_registry.attention.native.library import PREBUILT, VARIANTS, build, find_compiler


def main() -> None:
    """Build, and write the paths to standard output."""
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else PREBUILT
    x86 = platform.machine() in {"x86_64", "AMD64"}
    for variant in VARIANTS:
        if x86 or not variant.options:
            sys.stdout.write(f"{build(variant, directory, find_compiler())}\n")


if __name__ == "__main__":
    main()
