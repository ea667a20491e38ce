"""The LoRA adapters that vLLM serves beside its model: `--lora-modules` names them, and each is a model of its own."""

import json

from wave_serve.engine.arguments import EngineArguments, Flag
from wave_serve.engine.errors import EngineSetupError


def adapter_names(arguments: EngineArguments, model: str) -> tuple[str, ...]:
    """Names of the adapters in those arguments, in their order.

    Args:
        arguments: vLLM's.
        model: name that the base model is served under.

    Raises:
        EngineSetupError: vLLM would not load them, or two models would have one name.
    """
    names: list[str] = []
    for given in arguments.all(Flag.LORA_MODULES):
        name = _name(given)
        if name == model or name in names:
            raise EngineSetupError(f"{Flag.LORA_MODULES} {given}: a model named {name!r} is served already")
        names.append(name)
    if names and Flag.LORA not in arguments:
        raise EngineSetupError(f"{Flag.LORA_MODULES} {' '.join(names)}: it needs {Flag.LORA} beside it")
    return tuple(names)


def cpu_slots(arguments: EngineArguments) -> tuple[str, ...]:
    """The arguments that give vLLM's CPU build one slot for adapters more than there are adapters.

    vLLM 0.32 marks a request without an adapter by the slot -1, which its CPU build takes for the last one: beside a
    request with an adapter, it would be answered by whichever adapter stands there. The last slot has to stay empty.

    Raises:
        EngineSetupError: the arguments ask for fewer.
    """
    adapters = len(arguments.all(Flag.LORA_MODULES))
    if not adapters:
        return ()
    if Flag.LORA_SLOTS not in arguments:
        return (Flag.LORA_SLOTS, str(adapters + 1))
    if arguments.count(Flag.LORA_SLOTS) <= adapters:
        raise EngineSetupError(
            f"{Flag.LORA_SLOTS} {arguments.word(Flag.LORA_SLOTS)}: with {adapters} adapters vLLM's CPU build needs "
            f"{adapters + 1}, or it answers requests for the model by an adapter"
        )
    return ()


def _name(given: str) -> str:
    """The name in `name=path`, or in an object of JSON with a name and a path, which are the two ways to write one."""
    if "=" in given and "," not in given:
        name, _, path = given.partition("=")
    else:
        try:
            described = json.loads(given)
            name, path = described["name"], described["path"]
        except (ValueError, KeyError, TypeError):
            name, path = "", ""
    if not (isinstance(name, str) and name and isinstance(path, str) and path):
        raise EngineSetupError(f'{Flag.LORA_MODULES} {given}: write NAME=PATH or {{"name": NAME, "path": PATH}}')
    return name
