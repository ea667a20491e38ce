"""Hold what the plugin uses of vLLM against the Python files of any vLLM: nothing is imported, no GPU is needed.

    python deploy/check_vllm.py vllm-0.33.0-....whl     a wheel, or a directory that holds vllm/

It reads the plugin's own source for the names that it imports and for the arguments that it passes to them, and the
methods that its classes override; ``ATTRIBUTES`` lists what it asks of objects that vLLM hands in. Prints what is
missing and exits 1, or the number of uses that hold. A signature says nothing of what a function does: a new series is
accepted (``VLLM_SERIES``) after the parity tests, on a machine where it runs.
"""

from __future__ import annotations

import ast
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PLUGIN = Path(__file__).parents[1] / "model_registry"
SOURCES = [PLUGIN / "__init__.py", *sorted((PLUGIN / "vllm_plugin").glob("*.py"))]
ATTENTION = "vllm/v1/attention/backend.py"
PLATFORM = "vllm/platforms/interface.py"
# By file and class: the attributes and methods that the plugin asks of its instances or of itself.
ATTRIBUTES = {
    (ATTENTION, "CommonAttentionMetadata"): (
        "query_start_loc",
        "query_start_loc_cpu",
        "seq_lens",
        "num_actual_tokens",
        "max_query_len",
        "max_seq_len",
        "block_table_tensor",
        "causal",
    ),
    (ATTENTION, "AttentionImplBase"): ("total_cp_world_size",),
    (ATTENTION, "AttentionBackend"): (
        "forward_includes_kv_cache_update",
        "supported_dtypes",
        "supported_kv_cache_dtypes",
        "supported_kv_cache_layouts",
    ),
    (ATTENTION, "AttentionType"): ("DECODER",),
    (ATTENTION, "AttentionCGSupport"): ("UNIFORM_BATCH",),
    ("vllm/v1/kv_cache_interface.py", "KVCacheLayout"): ("LBHNC",),
    ("vllm/v1/attention/backends/registry.py", "AttentionBackendEnum"): ("register", "get_class"),
    (PLATFORM, "Platform"): (
        "is_cpu",
        "is_cuda",
        "is_cuda_alike",
        "is_xpu",
        "device_type",
        "fp8_dtype",
        "has_device_capability",
        "is_device_capability_family",
    ),
}
# Arguments that reach a function by way of others.
PASSED_ON = {
    ("vllm/model_executor/models/llama.py", "LlamaForCausalLM.__init__"): ("vllm_config", "prefix", "layer_type"),
    ("vllm/model_executor/models/llama.py", "LlamaDecoderLayer.__init__"): (
        "vllm_config",
        "prefix",
        "config",
        "attn_layer_type",
    ),
    ("vllm/v1/attention/backends/fa_utils.py", "get_flash_attn_version"): ("head_size",),
    ("vllm/vllm_flash_attn/flash_attn_interface.py", "flash_attn_varlen_func"): (
        "q",
        "k",
        "v",
        "out",
        "cu_seqlens_q",
        "max_seqlen_q",
        "seqused_k",
        "max_seqlen_k",
        "softmax_scale",
        "causal",
        "block_table",
        "fa_version",
        "return_softmax_lse",
    ),
}


class Vllm:
    """The Python files of one vLLM, parsed when they are asked for."""

    def __init__(self, read: Callable[[str], str | None]) -> None:
        self._read = read
        self._trees: dict[str, ast.Module | None] = {}

    def tree(self, path: str) -> ast.Module | None:
        if path not in self._trees:
            text = self._read(path)
            self._trees[path] = None if text is None else ast.parse(text)
        return self._trees[path]

    def module(self, name: str) -> str | None:
        """The file of a module."""
        base = name.replace(".", "/")
        return next((path for path in (f"{base}.py", f"{base}/__init__.py") if self.tree(path)), None)

    def find(self, path: str, name: str, depth: int = 0) -> tuple[str, ast.AST] | None:
        """Where a name of a module is defined, through imports: the file, and the definition or assignment."""
        tree = self.tree(path)
        if tree is None or depth > 6:
            return None
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
                return path, node
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and node.level <= 1:
                package = path.rsplit("/", 1)[0].replace("/", ".")
                source = node.module if node.level == 0 else f"{package}.{node.module}"
                for alias in node.names:
                    if (alias.asname or alias.name) not in (name, "*") or (target := self.module(source)) is None:
                        continue
                    wanted = name if alias.name == "*" else alias.name
                    if (there := self.find(target, wanted, depth + 1)) is not None:
                        return there
            if isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                    return path, node
        # A package may keep its names in a table or a __getattr__.
        return (path, tree) if any(isinstance(n, ast.Constant) and n.value == name for n in ast.walk(tree)) else None


def parameters(function: ast.FunctionDef) -> tuple[list[str], bool, bool]:
    """Names without ``self`` and ``cls``; whether it takes any further positional, and any further named ones."""
    arguments = function.args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return [n for n in names if n not in ("self", "cls")], arguments.vararg is not None, arguments.kwarg is not None


def members(vllm: Vllm, path: str, name: str) -> set[str]:
    """Attributes and methods of a class and of its bases."""
    found = vllm.find(path, name)
    if found is None or not isinstance(found[1], ast.ClassDef):
        return set()
    names = {n.attr for n in ast.walk(found[1]) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)}
    for node in found[1].body:
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.AnnAssign | ast.Assign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    for base in found[1].bases:
        base = base.value if isinstance(base, ast.Subscript) else base
        if isinstance(base, ast.Name) and base.id != name:
            names |= members(vllm, found[0], base.id)
    return names


def method(vllm: Vllm, path: str, owner: str, name: str) -> ast.FunctionDef | None:
    """A method of a class or of the first of its bases that has it."""
    found = vllm.find(path, owner)
    if found is None or not isinstance(found[1], ast.ClassDef):
        return None
    own = next((n for n in found[1].body if isinstance(n, ast.FunctionDef) and n.name == name), None)
    if own is not None:
        return own
    for base in found[1].bases:
        base = base.value if isinstance(base, ast.Subscript) else base
        if isinstance(base, ast.Name) and (inherited := method(vllm, found[0], base.id, name)):
            return inherited
    return None


def uses(vllm: Vllm) -> Iterator[tuple[str, str | None]]:
    """Each use, and what is wrong with it, if anything."""
    for source in SOURCES:
        tree = ast.parse(source.read_text())
        imported: dict[str, str] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "vllm":
                path = vllm.module(node.module)
                for alias in node.names:
                    imported[alias.name] = path or ""
                    there = path and (vllm.find(path, alias.name) or vllm.module(f"{node.module}.{alias.name}"))
                    yield f"{source.name}: {node.module}.{alias.name}", None if there else "is not there"
        yield from _calls(vllm, source, tree, imported)
        yield from _overrides(vllm, source, tree, imported)
    for (path, owner), names in ATTRIBUTES.items():
        there = members(vllm, path, owner)
        for name in names:
            yield f"{owner}.{name}", None if name in there else f"is not in {path}"
    for (path, name), passed in PASSED_ON.items():
        owner, _, attribute = name.rpartition(".")
        found = method(vllm, path, owner, attribute) if owner else (vllm.find(path, name) or (None, None))[1]
        yield name, _unknown(found, passed)


def _unknown(function: ast.AST | None, passed: tuple[str, ...] | list[str]) -> str | None:
    if not isinstance(function, ast.FunctionDef):
        return "is not there"
    names, _, any_named = parameters(function)
    missing = [name for name in passed if name not in names]
    return f"does not take {', '.join(missing)}" if missing and not any_named else None


def _calls(vllm: Vllm, source: Path, tree: ast.Module, imported: dict[str, str]) -> Iterator[tuple[str, str | None]]:
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and imported.get(node.func.id)):
            continue
        found = vllm.find(imported[node.func.id], node.func.id)
        if found is None:
            continue
        target = found[1] if isinstance(found[1], ast.FunctionDef) else method(vllm, found[0], node.func.id, "__init__")
        if target is None:
            continue
        wrong = _unknown(target, [keyword.arg for keyword in node.keywords if keyword.arg])
        names, any_positional, _ = parameters(target)
        positional = [a for a in node.args if not isinstance(a, ast.Starred)]
        if len(positional) > len(names) and not any_positional:
            wrong = f"takes {len(names)} arguments, not {len(positional)}"
        yield f"{source.name}: call of {node.func.id}", wrong


def _overrides(
    vllm: Vllm, source: Path, tree: ast.Module, imported: dict[str, str]
) -> Iterator[tuple[str, str | None]]:
    for owner in (n for n in ast.walk(tree) if isinstance(n, ast.ClassDef)):
        bases = [b.value if isinstance(b, ast.Subscript) else b for b in owner.bases]
        for base in (b.id for b in bases if isinstance(b, ast.Name) and imported.get(b.id)):
            for ours in (n for n in owner.body if isinstance(n, ast.FunctionDef)):
                theirs = method(vllm, imported[base], base, ours.name)
                if theirs is None:
                    continue
                asked, _, _ = parameters(theirs)
                names, any_positional, any_named = parameters(ours)
                given = {k.arg for n in ast.walk(ours) if isinstance(n, ast.Call) for k in n.keywords}
                # A constructor may fill in an argument for the one that it stands in for.
                missing = [n for n in asked if n not in names and not (ours.name == "__init__" and n in given)]
                held = not missing or (any_positional and any_named)
                yield (
                    f"{source.name}: {owner.name}.{ours.name} in place of {base}'s",
                    None if held else f"does not take {', '.join(missing)}",
                )


def reader(source: Path) -> Callable[[str], str | None]:
    if source.is_dir():
        return lambda path: (source / path).read_text() if (source / path).is_file() else None
    archive = zipfile.ZipFile(source)
    names = set(archive.namelist())
    return lambda path: archive.read(path).decode() if path in names else None


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    found = list(uses(Vllm(reader(Path(sys.argv[1])))))
    wrong = [(use, reason) for use, reason in found if reason]
    for use, reason in wrong:
        print(f"{use}: {reason}")
    print(f"{len(found) - len(wrong)} of {len(found)} uses hold in {Path(sys.argv[1]).name}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
