"""A miniature of the Hub on this machine, for its real client: repositories that are made, committed to and read."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0" * 39 + "1"


class HubServer(ThreadingHTTPServer):
    """
    Attributes:
        files (`dict[str, bytes]`): Of the one repository.
        created (`dict`, *optional*): What the client asked for when it made the repository.
        commits (`list[dict]`): The header of each commit.
        endpoint (`str`): For `HF_ENDPOINT`.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.created, self.commits = {}, None, []
        self.endpoint = f"http://127.0.0.1:{self.server_port}"

    @property
    def private(self) -> bool:
        """As the client asked for it, which is by one of two fields, by its version."""
        return bool(self.created.get("private")) or self.created.get("visibility") == "private"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def answer(self, content, status: int = 200, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self):
        hub, path = self.server, self.path.partition("?")[0]
        if match := re.fullmatch(r"/[^/]+/[^/]+/resolve/[^/]+/(.+)", path):
            if (content := hub.files.get(match[1])) is None:
                return self.answer(b"", 404, X_Error_Code="EntryNotFound")
            tag = hashlib.sha256(content).hexdigest()
            return self.answer(content, ETag=f'"{tag}"', X_Repo_Commit=COMMIT)
        if hub.created is None:
            return self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
        if "/tree/" in path:
            entries = [{"type": "file", "path": k, "size": len(v), "oid": "0" * 40} for k, v in hub.files.items()]
            return self.answer(entries)
        siblings = [{"rfilename": name} for name in hub.files]
        self.answer({"id": "org/model", "private": hub.private, "sha": COMMIT, "siblings": siblings})

    do_HEAD = do_GET

    def do_POST(self):
        hub, body = self.server, self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.startswith("/api/repos/create"):
            hub.created = json.loads(body)
            return self.answer({"url": f"{hub.endpoint}/org/model"})
        if self.path.startswith("/api/validate-yaml"):
            return self.answer({"errors": [], "warnings": []})
        if "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            return self.answer({"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]})
        assert "/commit/" in self.path, self.path
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "header":
                hub.commits.append(entry["value"])
            elif entry["key"] == "file":
                hub.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            else:
                assert entry["key"] == "deletedFile", entry["key"]
                del hub.files[entry["value"]["path"]]
        self.answer({"commitUrl": f"{hub.endpoint}/org/model/commit/{COMMIT}", "commitOid": COMMIT})
