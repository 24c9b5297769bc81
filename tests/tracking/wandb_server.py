"""A server on this machine that answers what wandb's client asks and keeps the history and summary of each run.

It shows what the client sends (wandb 0.31, wandb-workspaces 0.4), not what W&B draws. What it does not know is answered
with an error and fails the test at its end, also where the client swallows that error. It can break: from some
operation on it answers nothing any more (`silent_from`), or is gone (`gone_from`).
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

WANDB_KEY = "planted0" * 5


@dataclass
class ServerRun:
    """What arrived of one run; history lines by their place."""

    history: dict[int, dict[str, Any]] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    begun: bool = False
    group: str | None = None

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [self.history[place] for place in sorted(self.history)]


@dataclass
class View:
    """A saved workspace or report."""

    id: str
    name: str
    kind: str
    title: str
    spec: dict[str, Any]


@dataclass
class Wandb:
    """The server's state."""

    address: str = ""
    runs: dict[str, ServerRun] = field(default_factory=dict)
    projects: list[str] = field(default_factory=list)
    views: dict[str, View] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    silent_from: str | None = None
    gone_from: str | None = None
    broken: threading.Event = field(default_factory=threading.Event)
    closing: threading.Event = field(default_factory=threading.Event)

    def breaks(self, operation: str) -> bool:
        """Whether it is broken by now; this operation may be what breaks it."""
        self.asked.append(operation)
        if operation in (self.silent_from, self.gone_from):
            self.broken.set()
        return self.broken.is_set()

    def answer(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        upload = f"{self.address}/upload"
        match operation:
            case "Viewer" | "GetDefaultEntity":
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
            case "ArtifactType":
                return {"project": {"artifact": None}}
            case "GetProjects":
                nodes = [{"node": self.project(name), "cursor": name} for name in self.projects]
                return {"models": {"edges": nodes, "pageInfo": {"endCursor": None, "hasNextPage": False}}}
            case "CreateProject":
                name = given["input"]["name"]
                self.projects.append(name)
                return {"result": {"project": self.project(name), "model": self.project(name), "inserted": True}}
            case "ProjectInternalId":
                return {"project": {"id": "p", "internalId": "1"}}
            case "View" | "ProjectViews":
                return self.found(given)
            case "UpsertView2" | "upsertView":
                view, inserted = self.save(given)
                return {"upsertView": {"view": view, "inserted": inserted}}
        self.unknown.append(operation)
        return {}

    def project(self, name: str) -> dict[str, Any]:
        node = {"id": "p", "name": name, "entityName": "me", "createdAt": "2026-01-01T00:00:00Z", "isBenchmark": False}
        return node | {"user": None}

    def found(self, given: dict[str, Any]) -> dict[str, Any]:
        """The views of a project, of one type, of one name where one is given."""
        name = given.get("viewName")
        found = [view for view in self.views.values() if view.kind == given.get("viewType", "runs")]
        nodes = [self.view(view) for view in found if name in (None, view.name)]
        page = {"endCursor": None, "hasNextPage": False}
        views = {"edges": [{"node": node, "cursor": node["id"]} for node in nodes], "pageInfo": page}
        known = (given.get("project") or given.get("projectName")) in self.projects
        return {"project": {"allViews": views} if known else None}

    def save(self, given: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        """A view without an id is a new one, whatever its name."""
        own = given.get("id")
        identifier = own or f"view{len(self.views)}"
        values = (given["name"], given["type"], given["displayName"], json.loads(given["spec"]))
        self.views[identifier] = View(identifier, *values)
        return self.view(self.views[identifier]), own is None

    def view(self, view: View) -> dict[str, Any]:
        node = {"id": view.id, "type": view.kind, "name": view.name, "displayName": view.title, "description": ""}
        node |= {"project": self.project("p"), "spec": json.dumps(view.spec), "user": None, "viewCount": 0}
        return node | {"createdAt": "2026-01-01T00:00:00Z", "updatedAt": "2026-01-01T00:00:00Z"}

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
        run.group = given.get("groupName") or run.group
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
def serve(again: Wandb | None = None) -> Iterator[Wandb]:
    """Run a server on a free port, or one that is gone `again` where it was, with all that it had."""
    state = again or Wandb()
    state.silent_from = state.gone_from = None
    state.broken.clear()
    state.closing.clear()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            self.answer(self.path)

        def do_PUT(self) -> None:
            self.body()
            self.answer("upload" if self.path == "/upload" else f"PUT {self.path}")

        def do_POST(self) -> None:
            body = self.body()
            stream = re.match(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path)
            if self.path.endswith("/graphql"):
                asked = json.loads(body)
                operation = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
                self.answer(operation.group(1) if operation else "?", asked.get("variables") or {})
            elif stream:
                if self.answer("file_stream"):
                    state.stream(stream.group(1), json.loads(body).get("files") or {})
            else:
                self.answer(f"POST {self.path}")

        def answer(self, operation: str, variables: dict[str, Any] | None = None) -> bool:
            """Answer, or do not; whether it did."""
            if state.breaks(operation):
                if state.gone_from is None:
                    state.closing.wait()
                else:
                    threading.Thread(target=gone, daemon=True).start()
                self.close_connection = True
                return False
            if variables is not None:
                answer = state.answer(operation, variables)
                self.send({"data": answer} if answer else {"errors": [{"message": f"unknown operation {operation}"}]})
                return True
            if operation not in ("/healthz", "upload", "file_stream"):
                state.unknown.append(operation)
            self.send({"exitcode": None, "limits": {}})
            return True

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

    def gone() -> None:
        server.shutdown()
        server.server_close()

    server = Server(("127.0.0.1", int(state.address.rpartition(":")[2] or 0)), Handler)
    state.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.closing.set()
        gone()
        thread.join()
