"""Runs schemathesis with all checks against a gateway: before a fake upstream, or with --engine before the tiny engine.

schemathesis lives in an environment of its own; docs/clients.md says how to make one.
"""

import argparse
import contextlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))  # or tests/wave_serve would be taken for wave_serve

from helpers import served, tiny_checkpoint
from helpers.dialects import MESSAGE, RESPONSE, SPOKEN
from helpers.fake_upstream import DONE, GENERATIONS, Connection, FakeUpstream, reply, reply_json, stream
from helpers.running import running, settings_for

from wave_serve.keys.file import PREFIX, entry_for

WHOLE = {"/v1/responses": RESPONSE, "/v1/messages": MESSAGE}
USAGE = {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3}


async def generation(connection: Connection) -> None:
    """Answers as vLLM does, with one token."""
    body = json.loads(connection.body)
    if connection.path in WHOLE:
        spoken = next(one for one in SPOKEN.values() if one.path == connection.path)
        await (stream(spoken.begun + spoken.rest) if body.get("stream") else reply_json(WHOLE[spoken.path]))(connection)
        return
    chat = "messages" in body
    words = {"message": {"role": "assistant", "content": "a"}} if chat else {"text": "a"}
    answer = {"object": "x", "choices": [{"index": 0, "finish_reason": "length", **words}], "usage": USAGE}
    event = b"data: " + json.dumps(answer).encode() + b"\n\n"
    await (stream(event, DONE) if body.get("stream") else reply_json(answer))(connection)


@contextlib.contextmanager
def before_a_fake(keys: Path) -> Iterator[str]:
    """Root of a gateway before a fake upstream, which refuses what vLLM's types of requests do."""
    from vllm_requests import strict

    answers = {
        **dict.fromkeys(GENERATIONS, generation),
        "/v1/messages/count_tokens": reply_json({"input_tokens": 2}),
        "/detokenize": reply_json({"prompt": "a"}),
        "/tokenize": reply_json({"count": 2, "max_model_len": 1000, "tokens": [1, 2]}),
    }
    with FakeUpstream() as fake:
        fake.answers |= {path: strict(path, answer) for path, answer in answers.items()}
        fake.answers["/metrics"] = reply(b"", content_type="text/plain")
        with running(settings_for(fake, auth={"keys_file": str(keys)}, timeouts={"poll": 1.0, "connect": 30.0})) as one:
            yield one.url


@contextlib.contextmanager
def before_the_engine(keys: Path, scratch: Path) -> Iterator[str]:
    """Root of `wave-serve serve` on the tiny checkpoint."""
    config = scratch / "settings.yaml"
    config.write_text(f"auth: {{keys_file: {keys}}}\n")
    checkpoint = tiny_checkpoint.build(scratch / tiny_checkpoint.NAME)
    with served.serving(checkpoint, scratch, "--config", str(config)) as one:
        yield one.url


def main() -> int:
    """Status of schemathesis."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schemathesis", default="schemathesis", help="its command")
    parser.add_argument("--engine", action="store_true", help="before a real engine with a tiny model")
    parser.add_argument("--examples", type=int, default=250, help="most cases of each endpoint and phase")
    parser.add_argument("further", nargs="*", help="further arguments of `schemathesis run`, after --")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        key, keys = PREFIX + secrets.token_urlsafe(32), scratch / "keys.yaml"
        keys.write_text(f"keys:\n{entry_for(key, 'fuzz', {})}\n")
        gateway = before_the_engine(keys, scratch) if chosen.engine else before_a_fake(keys)
        with gateway as url:
            config = Path(__file__).with_name("schemathesis.toml")
            arguments = ["--config-file", str(config), "run", f"{url}/openapi.json", "--checks", "all"]
            arguments += ["-H", f"Authorization: Bearer {key}", "--max-examples", str(chosen.examples)]
            arguments += ["--workers", "2", "--request-timeout", "60", "--max-response-time", "60"]
            arguments += ["--continue-on-failure", *chosen.further]
            hooks = os.environ | {"SCHEMATHESIS_HOOKS": str(config.with_name("refusals.py"))}
            return subprocess.run([chosen.schemathesis, *arguments], check=False, env=hooks).returncode


if __name__ == "__main__":
    sys.exit(main())
