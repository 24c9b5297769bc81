from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from compress_exp.tracking.wandb_account import answers
from tests.tracking.wandb_server import serve


@contextmanager
def replies(status: int, pause: float = 0.0) -> Iterator[str]:
    """A server that sends its answer byte by byte, with pauses."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert not [name for name in self.headers if name.lower() in ("authorization", "cookie")]
            try:
                for byte in f"HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n":
                    self.wfile.write(byte.encode())
                    time.sleep(pause)
            except OSError:
                pass  # nobody listens any more

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize(("status", "counts"), [(200, True), (404, True), (401, True), (500, False), (503, False)])
def test_any_answer_counts_but_that_of_a_broken_server(
    status: int, counts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    with replies(status) as address:
        assert answers(address, 5) is counts


def test_silence_and_dribbling_end_in_time() -> None:
    with serve() as server:
        server.silent_from = "/healthz"
        started = time.monotonic()
        assert not answers(server.address, 0.5)
        assert time.monotonic() - started < 2
    with replies(200, pause=0.1) as address:  # 4 seconds for the whole, no single wait is long
        started = time.monotonic()
        assert not answers(address, 0.5)
        assert time.monotonic() - started < 2


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "http://nowhere.invalid", "no address", "ftp:/x"])
def test_what_cannot_be_reached_does_not_answer(address: str) -> None:
    assert not answers(address, 3)
