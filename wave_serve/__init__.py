"""OpenAI-compatible policy gateway with context caps. Imports neither torch nor vllm nor model_registry."""

import importlib.metadata

DISTRIBUTION = "wave-serve"
NOT_INSTALLED = "unknown: run from a source tree that is not installed"


def version() -> str:
    """As the installed package has it; a source tree that is not installed has none, and says so."""
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return NOT_INSTALLED
