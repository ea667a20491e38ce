"""The model's code as files beside the weights, so that Transformers loads the checkpoint without this package.

Transformers loads ``configuration_wavelet.py`` and ``modeling_wavelet.py`` from the directory (``auto_map``, with
``trust_remote_code=True``). It follows imports of files in the same folder alone, so the copies import one another by
relative names.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

AUTO_MAP = {
    "AutoConfig": "configuration_wavelet.WaveletLlamaConfig",
    "AutoModel": "modeling_wavelet.WaveletLlamaModel",
    "AutoModelForCausalLM": "modeling_wavelet.WaveletLlamaForCausalLM",
}
ENTRIES = ("model_registry.configuration_wavelet", "model_registry.modeling_wavelet")
OWN_IMPORT = re.compile(r"^(\s*)from (model_registry(?:\.\w+)*)\.(\w+) import ", re.MULTILINE)


def remote_code() -> dict[str, str]:
    """Text by file name: the two entry files and all of this package that they import."""
    texts: dict[str, str] = {}
    waiting = list(ENTRIES)
    while waiting:
        module = waiting.pop()
        name = module.rpartition(".")[2] + ".py"
        if name in texts:
            continue
        specification = importlib.util.find_spec(module)
        assert specification is not None
        assert specification.origin is not None
        text = Path(specification.origin).read_text(encoding="utf-8")
        waiting += [f"{match[2]}.{match[3]}" for match in OWN_IMPORT.finditer(text)]
        texts[name] = OWN_IMPORT.sub(r"\1from .\3 import ", text)
    return texts
