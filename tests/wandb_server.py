"""A server on this machine that answers what wandb's client asks and keeps the history and summary of each run.

It shows what the client sends (wandb 0.31), not what W&B draws. An operation that it does not know is an error.
"""

from __future__ import annotations

import gzip
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class ServerRun:
    """What arrived of one run; history lines by their place."""

    history: dict[int, dict[str, Any]] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    begun: bool = False

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [self.history[place] for place in sorted(self.history)]


@dataclass
class Wandb:
    """The server's state."""

    address: str = ""
    runs: dict[str, ServerRun] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)

    def answer(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        upload = f"{self.address}/upload"
        match operation:
            case "Viewer":
                return {"viewer": {"id": "u", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}
            case "ServerFeaturesQuery":
                return {"serverInfo": {"features": []}}
            case "RunResumeStatus":
                return {
                    "model": {"id": "p", "name": "p", "entity": {"name": "me"}, "bucket": self.bucket(given["name"])}
                }
            case "UpsertBucket":
                return {"upsertBucket": self.upsert(given)}
            case "CreateRunFiles":
                files = [{"name": name, "uploadUrl": upload} for name in given["files"]]
                return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
            case "CreateArtifact":
                sequence = {"id": "s", "latestArtifact": None}
                return {"createArtifact": {"artifact": {"id": "a", "state": "PENDING", "artifactSequence": sequence}}}
            case "CreateArtifactManifest":
                file = {"id": "f", "name": "m", "displayName": "m", "uploadUrl": upload, "uploadHeaders": []}
                return {"createArtifactManifest": {"artifactManifest": {"id": "m", "file": file}}}
            case "CreateArtifactFiles":
                names = [item["name"] for item in given.get("input", given)["artifactFiles"]]
                nodes = [
                    {"id": name, "name": name, "displayName": name, "uploadUrl": upload, "uploadHeaders": []}
                    | {"storagePath": name, "uploadMultipartUrls": None, "artifact": {"id": "a"}}
                    for name in names
                ]
                return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}
            case "CommitArtifact":
                return {"commitArtifact": {"artifact": {"id": "a", "digest": "d"}}}
        self.unknown.append(operation)
        return {}

    def bucket(self, name: str) -> dict[str, Any] | None:
        run = self.runs.get(name)
        if run is None or not run.begun:
            return None
        return {
            "id": "b",
            "name": name,
            "displayName": name,
            "summaryMetrics": json.dumps(run.summary),
            "config": json.dumps(run.config),
            "historyLineCount": len(run.history),
            "historyTail": json.dumps([json.dumps(row) for row in run.rows[-1:]]),
            "logLineCount": 0,
            "eventsLineCount": 0,
            "eventsTail": "[]",
            "tags": [],
            "wandbConfig": json.dumps({"t": 1}),
            "createdAt": "2026-01-01T00:00:00Z",
        }

    def upsert(self, given: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.setdefault(given["name"], ServerRun())
        inserted, run.begun = not run.begun, True
        if given.get("config"):
            run.config = json.loads(given["config"])
        project = {"id": "p", "name": given.get("project") or "p", "entity": {"id": "e", "name": "me"}}
        bucket = {"id": "b", "name": given["name"], "displayName": given["name"], "description": "", "sweepName": None}
        bucket |= {"config": json.dumps(run.config), "historyLineCount": len(run.history), "project": project}
        return {"bucket": bucket, "inserted": inserted}

    def stream(self, name: str, files: dict[str, Any]) -> None:
        run = self.runs.setdefault(name, ServerRun())
        if history := files.get("wandb-history.jsonl"):
            lines = enumerate(history["content"], history["offset"])
            run.history |= {place: json.loads(line) for place, line in lines}
        if summary := files.get("wandb-summary.json"):
            run.summary = json.loads(summary["content"][-1])


@contextmanager
def serve() -> Iterator[Wandb]:
    """Run a server on a free port."""
    state = Wandb()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_PUT(self) -> None:
            self.body()
            self.send({})

        def do_POST(self) -> None:
            body = self.body()
            stream = re.match(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path)
            if self.path.endswith("/graphql"):
                asked = json.loads(body)
                operation = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
                name = operation.group(1) if operation else "?"
                answer = state.answer(name, asked.get("variables") or {})
                self.send({"data": answer} if answer else {"errors": [{"message": f"unknown operation {name}"}]})
            elif stream:
                state.stream(stream.group(1), json.loads(body).get("files") or {})
                self.send({"exitcode": None, "limits": {}})
            else:
                self.send({})

        def body(self) -> bytes:
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            return gzip.decompress(data) if self.headers.get("Content-Encoding") == "gzip" else data

        def send(self, content: Any) -> None:
            data = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Clients that are killed hang up."""

    server = Server(("127.0.0.1", 0), Handler)
    state.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
