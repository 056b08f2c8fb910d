"""Computation on several machines, with Celery and Redis.

``client`` is the web process's side and ``worker`` the worker's. Both use ``app`` (the Celery
application) and ``store`` (what they share in Redis beside Celery's own queues and results).
Imported only if ``STRATASCOPE_REDIS_URL`` is set. Nothing is ever sent or stored as pickle.
"""
