"""A check for schemathesis: a request that the document calls valid is refused only for what a document cannot say.

It stands in for `positive_data_acceptance` where the answer is 400. Loaded by schemathesis, in its own environment.
"""

import re

import schemathesis

REASONS = {
    # What is counted: lengths depend on the model's tokenizer, its template, its cap and other fields.
    r"maximum context length|exceed context limit": "prompt and completion are over the cap together",
    r"min_tokens must be less than or equal to max_tokens": "one field bounds another",
    # What the deployment sets; the document is the same for all.
    r"^n must be at most|completions per request": "max_sequences of the model's settings",
    r"logprobs.*(max|greater than)|max_logprobs|max allowed": "--max-logprobs of the engine",
    r"[Pp]riority": "priorities need an engine that schedules by them",
    r"tool.?(choice|call).*(enable-auto-tool-choice|parser)|requires --": "tools need a parser of the engine's",
    r"--trust-request": "options of the engine for clients that are trusted",
    r"suffix is only supported": "only models that fill in between take a suffix",
    r"chat.?template.*(trust|request)|[Cc]hat template": "--trust-request-chat-template of the engine, or the template",
    r"at most \d+ items|No more than|too many": "environment variables of the engine bound lists",
    r"engine keeps no responses": "responses are kept only where the engine has a store",
    # What depends on the model's vocabulary.
    r"vocab|out of range|token id|token_id|too large to fit": "token ids that the tokenizer does not have",
    r"tokeniz|placeholder": "texts that this tokenizer makes nothing of, or that are special to it",
    # Fields that JSON Schema could relate, at the price of a document that no generator of clients reads.
    r"[Ss]tream options|stream=True|when `?stream": "one needs stream, another must not have it",
    r"top_logprobs.*logprobs|`logprobs` must be set": "top_logprobs needs logprobs",
    r"greedy sampling": "several samples at temperature 0",
    r"beam": "beam search takes few other fields, and bounds others",
    r"[Ee]cho": "echo and log-probabilities with beams, or of nothing",
    r"continue_final_message|add_generation_prompt|final message": "both, or another message last",
    r"tool_choice": "a choice that names none of the tools, or has none",
    r"structured outputs|structured_outputs": "several kinds at once, or tools besides",
    r"max_tokens must be at least 1": "0 is for a completion that only echoes",
    r"budget_tokens must be less": "one field bounds another",
    r"ValidatorIterator": "parts that are strings, which roles of OpenAI's do not have",
    r"`tools` must not be an empty|^tools must be": "a body of /v1/context may be of an API whose tools are others",
    r"^input": "items of responses have some twenty kinds, which the engine tells apart",
    r"tools\.\d+\.FunctionTool": "responses have some twenty kinds of tools, which the engine tells apart",
    r"output_config|display": "efforts and formats that the document of Anthropic's API lists",
    r"response_format": "with structured_outputs at once",
    r"give either prompt": "fields of two APIs at once",
    r"messages|message": "roles of other APIs ask for other members; a body without a path of its own may be of either",
    # Texts in languages of their own.
    r"[Gg]rammar|regex|[Ss]chema|xgrammar|guidance": "a regular expression, a grammar or a schema that is none",
    r"[Jj]inja|[Tt]emplate": "a chat template that is none",
}


@schemathesis.check
def valid_data_is_refused_for_a_known_reason(
    _context: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> None:
    """Fails for a 400 to valid data that no reason explains."""
    if case.meta is None or not case.meta.generation.mode.is_positive or response.status_code != 400:
        return
    message = response.json()["error"]["message"]
    if case.path == "/v1/context" and " must " in message:
        return  # a field of one API, wrong there; to the others, whose body this may be, it says nothing
    if not any(re.search(reason, message) for reason in REASONS):
        raise AssertionError(f"valid data was refused, and no reason is known: {message}")
