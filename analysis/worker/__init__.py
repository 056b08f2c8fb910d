"""The resident model worker: a spawned process that holds the models, and its queue.

``queue`` is plain data, ``process`` has both ends of the process, ``supervisor`` feeds it. Nothing
here but ``engine`` imports torch. Only the worker's process imports ``engine``, by its dotted name.
"""
