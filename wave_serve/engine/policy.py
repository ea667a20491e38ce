"""The policy of the models that `serve` serves: what the settings give, completed from the checkpoint."""

from wave_serve.engine.checkpoint import Checkpoint
from wave_serve.engine.errors import CheckpointError, EngineSetupError
from wave_serve.engine.evaluation import validated_length
from wave_serve.settings import ModelSettings, Settings


def served_models(
    settings: Settings, checkpoint: Checkpoint, name: str, adapters: tuple[str, ...], max_context: int | None
) -> dict[str, ModelSettings]:
    """The policies of the model and of its adapters, by name; an adapter has its model's but for what is given for it.

    Raises:
        EngineSetupError: the settings describe another model.
    """
    for other in settings.models:
        if other != name and other not in adapters:
            served = " and ".join(map(repr, (name, *adapters)))
            raise EngineSetupError(f"models describes {other!r}, but the served model is {served}")
    model = _model_settings(settings, checkpoint, name, max_context)
    return {name: model} | {one: _adapted(model, settings.models.get(one)) for one in adapters}


def _adapted(model: ModelSettings, given: ModelSettings | None) -> ModelSettings:
    changes = {} if given is None else {field: getattr(given, field) for field in given.model_fields_set}
    return model.model_copy(update=changes)


def _model_settings(settings: Settings, checkpoint: Checkpoint, name: str, max_context: int | None) -> ModelSettings:
    """The model's policy: what is given, completed from its checkpoint."""
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
