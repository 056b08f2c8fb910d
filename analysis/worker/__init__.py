"""The resident model worker: a spawned process that holds the models, and its queue.

``queue`` and ``computation`` are plain data, ``child`` is what runs in the process,
``process`` starts and watches it, ``supervisor`` feeds it. Nothing here but
``perform`` imports torch, and ``perform`` is reached by its dotted name in the
child only.
"""
