"""The WSGI entry for any web server: ``gunicorn --workers 1 dash_app.wsgi:server``.

Importing this starts no process and does not import torch. The model worker starts with the first
request that needs it, or with ``start()``.
"""

from __future__ import annotations

import atexit

from dash_app import monitoring
from dash_app.server import gunicorn
from dash_app.server.server import build
from dash_app.settings import Settings

settings = Settings()
gunicorn.allow_addresses(settings.max_url_kib)
monitoring.configure_log(settings)
served = build(settings)
server = served.app.server
atexit.register(served.close)


def start() -> None:
    """Start the model worker now, so that the first request does not wait for its imports."""
    served.start()
