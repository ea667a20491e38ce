"""Generated documents with questions about them: how a small model learns, in a few hundred tokens, to look things up.

A task hides lines in a stretch of text (or is all lines) and asks for them at the end. ``kinds`` makes tasks from
words alone, ``rows`` lays them out in training rows of token ids.
"""
