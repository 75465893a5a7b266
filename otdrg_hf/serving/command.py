"""`otdrg serve`: loads a model and answers requests until it is interrupted."""

import logging
import socket
import sys
from pathlib import Path

from otdrg_hf.extras import require
from otdrg_hf.serving.limits import Limits
from otdrg_hf.serving.listening import LOOPBACK, address, listen


def run_serve(
    model: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key_file: Path | None = None,
    device: str | None = None,
    dtype: str | None = None,
    limits: Limits | None = None,
) -> None:
    """
    Serves a model until it is interrupted.

    Args:
        model, device, dtype: As of [`~reporting.load_reporter`].
        host (`str`, *optional*, defaults to `"127.0.0.1"`): Any other address than loopback opens it to other machines.
        port (`int`, *optional*, defaults to 8000): 0 takes one that is free.
        api_key_file (`Path`, *optional*): As of [`read_keys`]; without it, no key is asked for.
        limits ([`Limits`], *optional*): Bounds.

    Raises:
        ImportError: without the extra `serve`.
        ValueError: if the address cannot be used, or keys or model cannot be read.
    """
    for module in ("fastapi", "uvicorn", "prometheus_client", "python_multipart"):
        require(module, extra="serve")
    from otdrg_hf.serving.gate import read_keys

    keys = read_keys(api_key_file) if api_key_file is not None else None
    with listen(host, port) as listener:
        from otdrg_hf.reporting import load_reporter, model_name
        from otdrg_hf.serving.application import make_application

        report = load_reporter(model, device, dtype)
        if host not in LOOPBACK and keys is None:
            print(f"warning: {host} lets other machines in, without a key: give --api_key_file", file=sys.stderr)
        local = host in LOOPBACK and keys is None
        application = make_application(report, model_name(model), limits, keys, local)
        _log_to_stderr()
        print(f"otdrg serve is at {address(host, listener)} (Ctrl-C ends it)", flush=True)
        _serve(application, listener)


def _log_to_stderr() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("otdrg_hf.serving")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _serve(application, listener: socket.socket) -> None:
    import uvicorn

    # No access log: it holds addresses as they were sent. `otdrg_hf.serving` logs routes.
    config = uvicorn.Config(
        application,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=60,
        timeout_keep_alive=15,
        ws="none",
    )
    uvicorn.Server(config).run(sockets=[listener])
