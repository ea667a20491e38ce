"""``python -m model_registry.training``: the ``train`` command without the gateway's command line."""

import typer

from model_registry.training.cli import train

typer.run(train)
