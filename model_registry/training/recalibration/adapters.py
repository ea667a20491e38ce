"""Low-rank adapters on a model that is to be recalibrated."""

from __future__ import annotations

from typing import Any

from model_registry.training.errors import TrainingError
from model_registry.training.recalibration.recipe import LORA_TARGETS, Recalibration


def adapted(model: Any, recipe: Recalibration) -> Any:
    """The model with untrained adapters on every projection; they alone are trained.

    Raises:
        TrainingError: the package peft is missing.
    """
    try:
        import peft
    except ModuleNotFoundError as error:
        raise TrainingError("lora_rank: adapters need the package peft: pip install peft") from error
    lora = peft.LoraConfig(
        r=recipe.lora_rank, lora_alpha=recipe.lora_alpha, target_modules=list(LORA_TARGETS), task_type="CAUSAL_LM"
    )
    model.enable_input_require_grads()  # for gradient checkpointing: the frozen embedding would cut the graph
    return peft.get_peft_model(model, lora)
