"""The fields of every request body: one table for what is checked and for what the OpenAPI document says.

Only shapes are checked here; what a value means to a model is the engine's to judge. Other fields pass unseen.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wave_serve.errors import invalid
from wave_serve.request.kinds import (
    Kind,
    array,
    boolean,
    choice,
    either,
    integer,
    mapping,
    number,
    numbers_by_token,
    string,
)
from wave_serve.request.values import shown
from wave_serve.settings import Overflow


@dataclass(frozen=True)
class Field:
    """One field of a request: its kind, and what it is for."""

    kind: Kind
    description: str


STRINGS = array(string(), "a list of strings")
TOKEN_IDS = array(integer(0), "a list of token ids")
STREAM_OPTIONS = mapping(
    "an object with the members include_usage and continuous_usage_stats",
    include_usage=boolean(),
    continuous_usage_stats=boolean(),
)

COMMON: dict[str, Field] = {
    "model": Field(string(), "Name of a served model; may be left out where only one is served."),
    "stream": Field(boolean(), "Answer with server-sent events."),
    "stream_options": Field(STREAM_OPTIONS, "include_usage: a last event with the usage. Only with stream."),
    "n": Field(integer(1, 2**31 - 1), "Completions of each prompt."),
    "max_tokens": Field(integer(0), "Longest completion, in tokens; by default what is left up to a limit."),
    "overflow": Field(choice(*Overflow), "What happens to a prompt over the cap; by default the model's policy."),
    "temperature": Field(number(0.0), "Sampling temperature; 0 takes the likeliest token."),
    "top_p": Field(number(most=1.0, above=0.0), "Samples from the likeliest tokens of this total probability."),
    "top_k": Field(integer(-1, 2**31 - 1), "Samples from this many likeliest tokens; 0 and -1 for all."),
    "min_p": Field(number(0.0, 1.0), "Leaves out tokens less likely than this share of the likeliest one."),
    "frequency_penalty": Field(number(-2.0, 2.0), "Penalty for each earlier occurrence of a token."),
    "presence_penalty": Field(number(-2.0, 2.0), "Penalty for a token that has occurred."),
    "repetition_penalty": Field(number(above=0.0), "Factor on what prompt and completion contain already."),
    "length_penalty": Field(number(), "Exponent on the length in beam search."),
    "seed": Field(integer(), "Seed of the sampling."),
    "stop": Field(either("a string or a list of strings", string(), STRINGS), "Ends the completion before this text."),
    "stop_token_ids": Field(TOKEN_IDS, "Ends the completion at these tokens."),
    "include_stop_str_in_output": Field(boolean(), "Keep the text that ended the completion."),
    "ignore_eos": Field(boolean(), "Go on after the end-of-text token."),
    "min_tokens": Field(integer(0, 2**31 - 1), "Shortest completion, in tokens."),
    "skip_special_tokens": Field(boolean(), "Leave special tokens out of the text."),
    "spaces_between_special_tokens": Field(boolean(), "Put spaces between special tokens of the text."),
    "logit_bias": Field(numbers_by_token(), "Added to the logits, by token id."),
    "bad_words": Field(STRINGS, "Text that is not generated."),
    "allowed_token_ids": Field(TOKEN_IDS, "The only tokens that are generated."),
    "prompt_logprobs": Field(integer(-1, 2**31 - 1), "Log-probabilities of so many tokens at each prompt position."),
    "add_special_tokens": Field(boolean(), "Add the tokenizer's special tokens to the prompt."),
    "response_format": Field(mapping(), "Grammar or JSON schema of the completion."),
    "structured_outputs": Field(mapping(), "vLLM's form of response_format."),
    "use_beam_search": Field(boolean(), "Search with n beams instead of sampling."),
    "priority": Field(integer(), "Lower is served earlier, where the engine schedules by priority."),
    "cache_salt": Field(string(1), "Shares cached prefixes only with requests of the same salt."),
    "return_token_ids": Field(boolean(), "Token ids beside the text."),
    "return_tokens_as_token_ids": Field(boolean(), "Tokens of log-probabilities as `token_id:ID`."),
    "vllm_xargs": Field(mapping(), "Further arguments of the engine."),
    "user": Field(string(), "Kept for compatibility; neither read nor logged."),
}

COMPLETION: dict[str, Field] = COMMON | {
    "logprobs": Field(integer(0, 2**31 - 1), "Log-probabilities of so many tokens at each position."),
    "echo": Field(boolean(), "Repeat the prompt before the completion."),
    "suffix": Field(string(), "Not supported by the engine."),
}

CHAT: dict[str, Field] = COMMON | {
    "max_completion_tokens": Field(integer(0), "As max_tokens, which it replaces."),
    "logprobs": Field(boolean(), "Log-probabilities of the completion's tokens."),
    "top_logprobs": Field(integer(0, 2**31 - 1), "Log-probabilities of so many tokens at each position."),
    "tools": Field(array(mapping(), "a list of objects"), "Functions that the model may call."),
    "tool_choice": Field(either("a string or an object", string(), mapping()), "Which tool to call."),
    "parallel_tool_calls": Field(boolean(), "Several tool calls in one answer."),
    "reasoning_effort": Field(string(), "How long the model reasons, where it does."),
    "include_reasoning": Field(boolean(), "Reasoning beside the answer."),
    "echo": Field(boolean(), "Repeat the last message before the answer."),
    "add_generation_prompt": Field(boolean(), "Begin the assistant's turn."),
    "continue_final_message": Field(boolean(), "Continue the last message instead of answering it."),
    "documents": Field(array(mapping(), "a list of objects"), "Documents for the chat template."),
    "chat_template": Field(string(), "Another chat template, where the engine allows one."),
    "chat_template_kwargs": Field(mapping(), "Arguments of the chat template."),
    "mm_processor_kwargs": Field(mapping(), "Arguments of the engine's multi-modal processor."),
    "media_io_kwargs": Field(mapping(), "Arguments of the engine's media readers."),
}

TOKENIZE: dict[str, Field] = {
    "model": COMMON["model"],
    "prompt": Field(string(), "Text to tokenise; or messages."),
    "messages": Field(array(mapping(), "a list of objects"), "Chat to tokenise after the chat template."),
    "add_special_tokens": COMMON["add_special_tokens"],
    "return_token_strs": Field(boolean(), "Each token's text too."),
    "add_generation_prompt": CHAT["add_generation_prompt"],
    "continue_final_message": CHAT["continue_final_message"],
    "chat_template": CHAT["chat_template"],
    "chat_template_kwargs": CHAT["chat_template_kwargs"],
    "tools": CHAT["tools"],
}

DETOKENIZE: dict[str, Field] = {
    "model": COMMON["model"],
    "tokens": Field(TOKEN_IDS, "Token ids."),
}


def check_fields(payload: Mapping[str, Any], fields: Mapping[str, Field]) -> None:
    """Every field of `payload` that is in the table, and not null, has its kind. Raises ApiError 400 naming it."""
    for name, value in payload.items():
        field = fields.get(name)
        if field is None or value is None:
            continue
        complaint = field.kind.complaint(value)
        if complaint is not None:
            raise invalid(f"{name} {complaint}, got {shown(value)}", name)


def check_present(payload: Mapping[str, Any], *names: str) -> None:
    """At least one of these fields is there. Raises ApiError 400."""
    if all(payload.get(name) is None for name in names):
        raise invalid(f"{' or '.join(names)} is required", names[0])
