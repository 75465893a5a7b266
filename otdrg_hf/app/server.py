"""The server behind the page: this machine only unless asked, no telemetry, and no file of a patient left behind."""

import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from otdrg_hf import DEMO_CHECKPOINT
from otdrg_hf.extras import require
from otdrg_hf.serving.listening import LOOPBACK, address, listen

DEMO_NOTICE = "The bundled demo model was trained on synthetic images only."
HUB_FRAMES = "https://huggingface.co https://*.hf.space"
# The browser itself refuses whatever would be fetched from elsewhere.
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def run_app(
    model: str | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    device: str | None = None,
    embedded: bool = False,
) -> None:
    """
    Serves the page until it is interrupted.

    Args:
        model (`str`, *optional*): Folder or Hub id; defaults to the bundled demo checkpoint.
        host (`str`, *optional*, defaults to `"127.0.0.1"`): Any other address than loopback opens it to other machines.
        port (`int`, *optional*, defaults to 7860): 0 takes one that is free.
        device (`str`, *optional*): As of the pipeline.
        embedded (`bool`, *optional*, defaults to `False`): Let pages of the Hub show it in a frame, as they do a Space.

    Raises:
        ImportError: without the extra `app`.
        ValueError: if the address cannot be used, or the model cannot be loaded.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported
    for module in ("gradio", "matplotlib"):
        require(module, extra="app")
    listener = listen(host, port)
    _end_tidily()
    with listener, private_folder():
        from otdrg_hf.reporting import load_reporter

        report = load_reporter(model, device)
        if host not in LOOPBACK:
            print(f"warning: {host} lets other machines in, without a password", file=sys.stderr)
        print(f"OTDRG is at {address(host, listener)} (Ctrl-C ends it)", flush=True)
        _serve(make_app(report, *describe(model, report.model.config.notice), host, embedded), listener)


def describe(model: str | None, notice: str | None) -> tuple[str, str]:
    """How the page calls the model, without its folder, and what it says about it."""
    if model is None or (os.path.isdir(model) and Path(model).resolve() == DEMO_CHECKPOINT.resolve()):
        return "bundled demo model", DEMO_NOTICE
    return Path(model).resolve().name if os.path.isdir(model) else model, notice or ""


def make_app(report, model_name: str, notice: str, host: str = "127.0.0.1", embedded: bool = False):
    """The page as an ASGI application; call it within [`private_folder`]."""
    import fastapi
    import gradio as gr
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from otdrg_hf.app.page import ASSETS, MAX_FILE_SIZE, build_page, theme

    web = fastapi.FastAPI(openapi_url=None)
    if host in ("127.0.0.1", "localhost"):
        # A page elsewhere must not reach this one through a name that it points at loopback.
        web.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
    script = (ASSETS / "page.js").read_text(encoding="utf-8")
    web = gr.mount_gradio_app(
        web,
        build_page(report, model_name, notice),
        path="/",
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        mcp_server=False,
        ssr_mode=False,
        pwa=False,
        show_error=False,
        max_file_size=MAX_FILE_SIZE,
        theme=theme(),
        css=(ASSETS / "page.css").read_text(encoding="utf-8"),
        head=f"<script>{script}</script>",
    )
    return _with_headers(web, HUB_FRAMES if embedded else "'none'")


def _with_headers(web, frames: str):
    headers = {name: value.replace("'none'", frames) for name, value in SECURITY_HEADERS.items()}
    extra = [(name.lower().encode(), value.encode()) for name, value in headers.items()]

    async def app(scope, receive, send):
        async def send_with_headers(message):
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *extra]}
            await send(message)

        await web(scope, receive, send_with_headers if scope["type"] == "http" else send)

    return app


@contextmanager
def private_folder() -> Iterator[Path]:
    """Everything that Gradio writes lands in a folder that only its owner can read and that goes at the end."""
    with tempfile.TemporaryDirectory(prefix="otdrg-app-", ignore_cleanup_errors=True) as folder:
        before = os.environ.get("GRADIO_TEMP_DIR"), tempfile.tempdir
        os.environ["GRADIO_TEMP_DIR"] = tempfile.tempdir = folder
        try:
            yield Path(folder)
        finally:
            tempfile.tempdir = before[1]
            if before[0] is None:
                del os.environ["GRADIO_TEMP_DIR"]
            else:
                os.environ["GRADIO_TEMP_DIR"] = before[0]


def _end_tidily() -> None:
    """Whoever ends the process from outside still has the private folder removed."""

    def end(signum, frame):
        sys.exit(128 + signum)

    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), end)


def _serve(app, listener: socket.socket) -> None:
    import uvicorn

    # No access log: addresses hold the names of files.
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=[listener])
