"""Train a checkpoint on: ``wave-serve train --from``.

``texts`` reads what to train on and ``loop`` trains through accelerate (one process or many), with a teacher by
``attention_transfer`` first. ``export`` writes the checkpoint and ``measure`` serves it once to write its
``eval.json``. ``recipe`` holds every default.
"""
