"""Train a checkpoint on: ``wave-serve train --from``.

``texts`` reads what to train on, ``start`` loads the checkpoint, and ``loop`` trains it through accelerate (one
process or many), with a teacher by ``attention_transfer`` first. ``export`` writes the checkpoint and ``measure``
serves it once to write its ``eval.json``. ``recipe`` holds every default.
"""
