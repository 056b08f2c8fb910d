"""Find nginx (``tools/nginx.py`` installs it), and run one with the shipped configuration."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import threading
from pathlib import Path

from tests.support.find_program import located
from tests.support.repository import ROOT

VARIABLE = "STRATASCOPE_NGINX"
NAMES = ("nginx", "/usr/sbin/nginx")
SHIPPED = ROOT / "deploy" / "nginx.conf"


def find() -> str:
    """Path of nginx.

    Raises:
        FileNotFoundError: If there is none, saying how to get one.
    """
    if path := located(VARIABLE, NAMES):
        return path
    raise FileNotFoundError(f"No nginx is here. Run make nginx, or set {VARIABLE} to one.")


class Nginx:
    """nginx in front of a server, with ``deploy/nginx.conf`` but without TLS, on a free port.

    Args:
        folder: For its files.
        server: Address of the server, such as ``127.0.0.1:8050``.
        prefix: The path to serve.
    """

    def __init__(self, folder: Path, server: str, prefix: str = "/") -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.host = f"127.0.0.1:{self.port}"
        path = folder / "nginx.conf"
        path.write_text(self._configuration(folder, server, prefix))
        command = [find(), "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(path)]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        pause = threading.Event()
        for _ in range(1000):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            pause.wait(0.02)
        raise AssertionError("nginx did not start")

    def _configuration(self, folder: Path, server: str, prefix: str) -> str:
        shipped = SHIPPED.read_text()
        block = shipped[shipped.index("server {", shipped.index("return 301")) :]
        block = re.sub(r"listen 443 ssl;", f"listen {self.host};", block)
        block = re.sub(r"ssl_certificate\S*\s+\S+;", "", block)
        block = block.replace("http://127.0.0.1:8050", f"http://{server}")
        block = block.replace("location / {", f"location {prefix} {{")
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        folders = "".join(f"{kind}_temp_path {folder / kind};" for kind in kinds)
        user = "user root;" if os.geteuid() == 0 else ""
        return (
            f"{user} daemon off; master_process off; pid {folder / 'nginx.pid'};"
            f"events {{}} http {{ access_log off; {folders} {block} }}"
        )

    def __enter__(self) -> Nginx:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
