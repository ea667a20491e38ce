"""Options of how much work is let through to an upstream at once."""

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from wave_serve.settings_section import Frozen


class AdmissionSettings(Frozen):
    """Bounds on the work under way, and on what waits for it."""

    max_requests: PositiveInt = Field(256, description="Generations at the same time, of each upstream.")
    max_prompt_tokens: PositiveInt = Field(
        2**20,
        description="Prompt tokens under way, of each upstream; a longer prompt is let through when it is alone.",
    )
    queue_requests: NonNegativeInt = Field(256, description="Generations that wait; past it the answer is 429.")
    queue_prompt_tokens: PositiveInt = Field(2**22, description="Prompt tokens that wait; past it the answer is 429.")
    queue_deadline: PositiveFloat = Field(30.0, description="Seconds that a generation waits before the answer is 429.")
