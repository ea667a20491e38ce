"""The bodies of requests: pydantic models from which both the check and the OpenAPI document derive.

Only shapes are checked here; what a value means to a model is the engine's to judge. Fields that no model has pass
unseen. So do prompt and messages, which may be very long: `generation` reads them, here is only what the document says.
"""

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, with_config
from typing_extensions import TypedDict

from wave_serve.errors import invalid
from wave_serve.request.shapes import (
    ARGUMENTS,
    DOCUMENTS,
    EFFORT,
    MESSAGES,
    OBJECTS_BY_NAME,
    PROMPTS,
    RESPONSE_FORMAT,
    STRUCTURED_OUTPUTS,
    TOOL_CHOICE,
)
from wave_serve.request.types import (
    Integer,
    Natural,
    Natural32,
    NaturalOrAll32,
    Number,
    NumbersByToken,
    Object,
    Objects,
    OverflowPolicy,
    Positive,
    Positive32,
    Salt,
    SomeTools,
    StringOrObject,
    StructuredOutputs,
    TextOrTexts,
    Texts,
    TokenIds,
    Tools,
    VocabularyIds,
    complaint,
)


def about(description: str, **bounds: Any) -> Any:
    """A field that may be left out, what it is for, and the bounds of its value."""
    return Field(default=None, description=description, **bounds)


@with_config(ConfigDict(strict=True, extra="allow"))
class StreamOptions(TypedDict, total=False):
    """What a stream tells besides its text."""

    include_usage: bool | None
    continuous_usage_stats: bool | None


class Body(BaseModel):
    """The fields of every body. Strict: a string of digits is no number."""

    model_config = ConfigDict(strict=True, extra="allow")

    model: str | None = about("Name of a served model; may be left out where only one is served.")


class PromptBody(Body):
    """The fields of every body with a prompt."""

    add_special_tokens: bool | None = about("Add the tokenizer's special tokens to the prompt.")


class TemplateBody(PromptBody):
    """The fields that shape a chat's prompt."""

    tools: Tools | None = about("Functions that the model may call.")
    add_generation_prompt: bool | None = about("Begin the assistant's turn.")
    continue_final_message: bool | None = about("Continue the last message instead of answering it.")
    chat_template: str | None = about("Another chat template, where the engine allows one.")
    chat_template_kwargs: Object | None = about("Arguments of the chat template.")


class StreamedBody(Body):
    """The fields of every body of a generation, in any dialect."""

    stream: bool | None = about("Answer with server-sent events.")
    overflow: OverflowPolicy | None = about("What happens to a prompt over the cap; by default the model's policy.")
    temperature: Number | None = about("Sampling temperature; 0 takes the likeliest token.", ge=0.0, le=2.0)
    top_p: Number | None = about("Samples from the likeliest tokens of this total probability.", gt=0.0, le=1.0)
    top_k: NaturalOrAll32 | None = about("Samples from this many likeliest tokens; 0 and -1 for all.")
    cache_salt: Salt | None = about("Shares cached prefixes only with requests of the same salt.")
    vllm_xargs: Annotated[Object, ARGUMENTS] | None = about("Further arguments of the engine.")

    def completion_limit(self) -> tuple[str, int | None]:
        """The field that limits the completion, and its value in tokens; None where it is not there."""
        raise NotImplementedError

    def least_completion(self) -> int:
        """The shortest completion asked for, in tokens."""
        return 0

    def completions(self) -> int:
        """Completions of each prompt."""
        return 1


class SampledBody(StreamedBody):
    """The fields that OpenAI's three dialects have in common."""

    min_p: Number | None = about("Leaves out tokens less likely than this share of the likeliest one.", ge=0.0, le=1.0)
    frequency_penalty: Number | None = about("Penalty for each earlier occurrence of a token.", ge=-2.0, le=2.0)
    presence_penalty: Number | None = about("Penalty for a token that has occurred.", ge=-2.0, le=2.0)
    # Beyond these the engine's logits would be no numbers of 32 bits any more, and it would answer 500.
    repetition_penalty: Number | None = about(
        "Factor on what prompt and completion contain already.", ge=1e-30, le=1e30
    )
    seed: Integer | None = about("Seed of the sampling.")
    stop: TextOrTexts | None = about("Ends the completion before this text.")
    stop_token_ids: TokenIds | None = about("Ends the completion at these tokens.")
    include_stop_str_in_output: bool | None = about("Keep the text that ended the completion.")
    ignore_eos: bool | None = about("Go on after the end-of-text token.")
    skip_special_tokens: bool | None = about("Leave special tokens out of the text.")
    logit_bias: NumbersByToken | None = about("Added to the logits, by token id.")
    structured_outputs: Annotated[StructuredOutputs, STRUCTURED_OUTPUTS] | None = about(
        "vLLM's form of response_format."
    )
    priority: Integer | None = about("Lower is served earlier, where the engine schedules by priority.")
    user: str | None = about("Kept for compatibility; neither read nor logged.")


class GenerationBody(PromptBody, SampledBody):
    """The fields that completions and chats have in common."""

    stream_options: StreamOptions | None = about("include_usage: a last event with the usage. Only with stream.")
    n: Positive32 | None = about("Completions of each prompt.")
    max_tokens: Natural | None = about("Longest completion, in tokens; by default what is left up to a limit.")
    # A million tokens to this power is still a number of 64 bits, which the engine divides by.
    length_penalty: Number | None = about("Exponent on the length in beam search.", ge=-50.0, le=50.0)
    min_tokens: Natural32 | None = about("Shortest completion, in tokens.")
    spaces_between_special_tokens: bool | None = about("Put spaces between special tokens of the text.")
    bad_words: Texts | None = about("Text that is not generated.")
    allowed_token_ids: TokenIds | None = about("The only tokens that are generated.")
    prompt_logprobs: NaturalOrAll32 | None = about("Log-probabilities of so many tokens at each prompt position.")
    response_format: Annotated[Object, RESPONSE_FORMAT] | None = about("Grammar or JSON schema of the completion.")
    use_beam_search: bool | None = about("Search with n beams instead of sampling.")
    return_token_ids: bool | None = about("Token ids beside the text.")
    return_tokens_as_token_ids: bool | None = about("Tokens of log-probabilities as `token_id:ID`.")

    def least_completion(self) -> int:
        """The field min_tokens."""
        return self.min_tokens or 0

    def completion_limit(self) -> tuple[str, int | None]:
        """The field max_tokens."""
        return "max_tokens", self.max_tokens

    def completions(self) -> int:
        """The field n."""
        return 1 if self.n is None else self.n


class CompletionRequest(GenerationBody):
    """The body of a completion."""

    model_config = ConfigDict(json_schema_extra={"required": ["prompt"]})

    prompt: Annotated[Any, PROMPTS] = None
    logprobs: NaturalOrAll32 | None = about("Log-probabilities of so many tokens at each position; -1 for all.")
    echo: bool | None = about("Repeat the prompt before the completion.")
    suffix: str | None = about("Text after the completion; only for models that fill in between.")


class ChatRequest(GenerationBody, TemplateBody):
    """The body of a chat."""

    model_config = ConfigDict(json_schema_extra={"required": ["messages"]})

    messages: Annotated[Any, MESSAGES] = None
    tools: SomeTools | None = about("Functions that the model may call.")
    max_tokens: Positive | None = about("Longest completion, in tokens; by default what is left up to a limit.")
    max_completion_tokens: Positive | None = about("As max_tokens, which it replaces.")
    logprobs: bool | None = about("Log-probabilities of the completion's tokens.")
    top_logprobs: NaturalOrAll32 | None = about("Log-probabilities of so many tokens at each position; -1 for all.")
    tool_choice: Annotated[StringOrObject, TOOL_CHOICE] | None = about("Which tool to call.")
    parallel_tool_calls: bool | None = about("Several tool calls in one answer.")
    reasoning_effort: Annotated[str, EFFORT] | None = about("How long the model reasons, where it does.")
    include_reasoning: bool | None = about("Reasoning beside the answer.")
    echo: bool | None = about("Repeat the last message before the answer.")
    documents: Annotated[Objects, DOCUMENTS] | None = about("Documents for the chat template.")
    mm_processor_kwargs: Object | None = about("Arguments of the engine's multi-modal processor.")
    media_io_kwargs: Annotated[Object, OBJECTS_BY_NAME] | None = about("Arguments of the engine's media readers.")

    def completion_limit(self) -> tuple[str, int | None]:
        """As of every generation; max_completion_tokens takes precedence."""
        if self.max_completion_tokens is None and self.max_tokens is not None:
            return super().completion_limit()
        return "max_completion_tokens", self.max_completion_tokens


class TokenizeText(PromptBody):
    """The body of a request for a text's tokens."""

    prompt: str
    return_token_strs: bool | None = about("Each token's text too.")


class TokenizeChat(TemplateBody):
    """The body of a request for a chat's tokens."""

    messages: Annotated[Objects, MESSAGES]
    return_token_strs: bool | None = about("Each token's text too.")


class DetokenizeRequest(Body):
    """The body of a request for the text of tokens."""

    tokens: VocabularyIds


Kind = TypeVar("Kind", bound=Body)


def check_fields(payload: Mapping[str, Any], kind: type[Kind]) -> Kind:
    """The fields of a body of that kind; null is as good as absent. Raises ApiError 400 naming field and value."""
    try:
        return kind.model_validate(payload)
    except ValidationError as error:
        order = {name: place for place, name in enumerate(payload)}
        first = min(error.errors(), key=lambda each: order.get(str(each["loc"][0]), -1))
        raise invalid(complaint(first, payload), str(first["loc"][0])) from None
