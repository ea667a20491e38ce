"""Random bodies in each of the four dialects: text of many kinds, system prompts, tools, calls and their results."""

import json
import random
from collections.abc import Callable

ALPHABETS = (
    "abcdefgh  \n",
    "0123456789.,;()[]{}=\t ",
    "äöüßéñçığ ",
    "日本語中文한국어 ",
    "🙂👩‍👧🏽\u200d ",
    "<|im_end|>\r\n  ",
)
NAMES = ("area", "get_weather", "read_file", "search-docs")


def text(rng: random.Random, most: int = 300) -> str:
    """Some text, of one alphabet or a mixture; never only of white space."""
    letters = rng.choice(ALPHABETS) if rng.random() < 0.7 else "".join(ALPHABETS)
    return rng.choice("axZ9") + "".join(rng.choices(letters, k=rng.randrange(most)))


def schema(rng: random.Random) -> dict:
    """The parameters of a tool."""
    kinds = [{"type": "number"}, {"enum": [1, None, "a"]}, {"type": "string", "description": text(rng, 40)}]
    return {"type": "object", "properties": {f"p{index}": rng.choice(kinds) for index in range(rng.randrange(4))}}


def arguments(rng: random.Random) -> dict:
    """What a tool is called with."""
    return {f"p{index}": rng.choice([1, "x", text(rng, 20), None, [2]]) for index in range(rng.randrange(3))}


def completion(rng: random.Random) -> dict:
    """Text, or token ids that every tokenizer has."""
    if rng.random() < 0.2:
        return {"prompt": [rng.randrange(2, 400) for _ in range(rng.randrange(1, 200))]}
    return {"prompt": text(rng), "add_special_tokens": rng.random() < 0.7}


def chat(rng: random.Random) -> dict:
    """A chat, maybe with tools."""
    messages: list[dict] = []
    if rng.random() < 0.6:
        messages.append({"role": rng.choice(["system", "developer"]), "content": text(rng)})
    for turn in range(rng.randrange(1, 4)):
        parts = [{"type": "text", "text": text(rng, 60)} for _ in range(rng.randrange(1, 3))]
        messages.append({"role": "user", "content": text(rng) if rng.random() < 0.7 else parts})
        if rng.random() < 0.4:
            name = f"call_{turn}"
            function = {"name": rng.choice(NAMES), "arguments": json.dumps(arguments(rng))}
            calls = [{"id": name, "type": "function", "function": function}]
            messages.append({"role": "assistant", "content": text(rng, 30), "tool_calls": calls})
            messages.append({"role": "tool", "tool_call_id": name, "content": text(rng)})
        messages.append({"role": "assistant", "content": text(rng)})
    if rng.random() < 0.7:
        messages.append({"role": "user", "content": text(rng)})
    body: dict = {"messages": messages}
    if rng.random() < 0.4:
        functions = [{"name": name, "description": text(rng, 60), "parameters": schema(rng)} for name in NAMES[:2]]
        body["tools"] = [{"type": "function", "function": function} for function in functions]
        body["tool_choice"] = rng.choice(["none", "auto"])
    return body


def response(rng: random.Random) -> dict:
    """The input of a response: text, or items."""
    body: dict = {"instructions": text(rng)} if rng.random() < 0.5 else {}
    if rng.random() < 0.2:
        return body | {"input": text(rng)}
    items: list[dict] = []
    if rng.random() < 0.3:
        items.append({"role": "system", "content": text(rng)})
    for turn in range(rng.randrange(1, 4)):
        parts = [{"type": "input_text", "text": text(rng, 60)} for _ in range(rng.randrange(1, 3))]
        said = {"role": "user", "content": text(rng) if rng.random() < 0.6 else parts}
        items.append({"type": "message", **said} if rng.random() < 0.5 else said)
        if rng.random() < 0.5:
            if rng.random() < 0.5:
                items.append({"role": "assistant", "content": text(rng, 30)})
            name = f"call_{turn}"
            call = {"name": rng.choice(NAMES), "arguments": json.dumps(arguments(rng))}
            items.append({"type": "function_call", "call_id": name, **call})
            items.append({"type": "function_call_output", "call_id": name, "output": text(rng)})
        if rng.random() < 0.5:
            items.append({"role": "assistant", "content": text(rng)})
        else:
            content = [{"type": "output_text", "text": text(rng)}]
            items.append({"type": "message", "role": "assistant", "content": content})
    if rng.random() < 0.7:
        items.append({"role": "user", "content": text(rng)})
    body["input"] = items
    if rng.random() < 0.4:
        kinds = [{"name": name, "description": text(rng, 60), "parameters": schema(rng)} for name in NAMES[:2]]
        body["tools"] = [{"type": "function", **kind} for kind in kinds]
    return body


def message(rng: random.Random) -> dict:
    """Anthropic's messages, maybe with tools."""
    body: dict = {}
    if rng.random() < 0.6:
        blocks = [{"type": "text", "text": text(rng, 60)} for _ in range(rng.randrange(1, 3))]
        body["system"] = text(rng) if rng.random() < 0.6 else blocks
    messages: list[dict] = []
    for turn in range(rng.randrange(1, 4)):
        blocks = [{"type": "text", "text": text(rng, 60)} for _ in range(rng.randrange(1, 3))]
        messages.append({"role": "user", "content": text(rng) if rng.random() < 0.6 else blocks})
        if rng.random() < 0.4:
            use = {"type": "tool_use", "id": f"toolu_{turn}", "name": rng.choice(NAMES), "input": arguments(rng)}
            said = [{"type": "text", "text": text(rng, 30)}, use]
            result: dict = {"type": "tool_result", "tool_use_id": f"toolu_{turn}"}
            result["content"] = text(rng) if rng.random() < 0.5 else [{"type": "text", "text": text(rng)}]
            also = [{"type": "text", "text": text(rng, 20)}] if rng.random() < 0.3 else []
            messages += [{"role": "assistant", "content": said}, {"role": "user", "content": [result, *also]}]
        messages.append({"role": "assistant", "content": text(rng)})
    if rng.random() < 0.7:
        messages.append({"role": "user", "content": text(rng)})
    body["messages"] = messages
    if rng.random() < 0.4:
        kinds = [{"name": name, "description": text(rng, 60), "input_schema": schema(rng)} for name in NAMES[:2]]
        body["tools"] = kinds
        if rng.random() < 0.5:
            body["tool_choice"] = {"type": rng.choice(["auto", "none"])}
    return body


BODIES: dict[str, Callable[[random.Random], dict]] = {
    "/v1/completions": completion,
    "/v1/chat/completions": chat,
    "/v1/responses": response,
    "/v1/messages": message,
}
