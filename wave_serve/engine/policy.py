"""The policy of the model that `serve` serves: what the settings give, completed from the checkpoint."""

from wave_serve.engine.checkpoint import Checkpoint
from wave_serve.engine.command import EngineSetupError
from wave_serve.engine.errors import CheckpointError
from wave_serve.engine.evaluation import validated_length
from wave_serve.settings import ModelSettings, Settings


def model_settings(settings: Settings, checkpoint: Checkpoint, name: str, max_context: int | None) -> ModelSettings:
    """The model's policy: what is given, completed from its checkpoint."""
    for other in settings.models:
        if other != name:
            raise EngineSetupError(f"models describes {other!r}, but the served model is {name!r}")
    known = {
        "train_length": checkpoint.train_length,
        "vocab_size": checkpoint.vocab_size,
        "tokenizer": checkpoint.tokenizer,
    }
    given = settings.models[name].model_dump(exclude_unset=True) if name in settings.models else {}
    asked = {} if max_context is None else {"max_tokens": max_context}
    model = ModelSettings.model_validate(known | given | asked)
    if model.validated_length is None and model.train_length is not None:
        measured = validated_length(checkpoint, model.train_length, model.validated_tolerance)
        model = model.model_copy(update={"validated_length": measured})
    if model.max_tokens is not None and model.max_tokens > checkpoint.max_position_embeddings:
        raise CheckpointError(
            f"a context of {model.max_tokens} tokens is more than the checkpoint's "
            f"max_position_embeddings of {checkpoint.max_position_embeddings}"
        )
    return model
