"""More than one machine: requests through Redis, computed by Celery workers.

Redis holds what is true: who waits for what, in which order, how far it has come, and the
answer. Celery carries word that there is something to do, and runs the workers. ``backend`` is
the web process's side, ``session`` the worker's; ``board`` and ``lua/`` are all they say to Redis.
Imported only where ``STRATASCOPE_REDIS_URL`` is set. Nothing travels as pickle.
"""
