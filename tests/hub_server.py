"""A small server that speaks the parts of the Hub's HTTP API that a push and a download use.

    with HubServer() as server:
        ...     # a fresh process with HF_ENDPOINT=server.url and HF_HUB_DISABLE_XET=1

Repositories live in memory. There is one user, alice, with one token. As on the real Hub:

* Weights go through Git LFS (batch, PUT of the object, verify) and come back by a redirect to
  another host. Small files travel inside the commit.
* A commit is all or nothing.
* Creating what exists is 409, writing to what is another user's is 403, a bad token is 401.

POST /faults [[part of a path, fault], ..] makes requests fail. A request whose path contains the
part meets the fault, once. A fault is a status, or "close": the server reads half of the body and
drops the connection.
"""
from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_alice_may_write"


class HubServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repos: dict[str, dict[str, bytes]] = {}    # name -> {path: content}
        self.private: set[str] = set()                  # names of the private ones
        self.commits: dict[str, int] = {}               # name -> number of commits
        self.objects: dict[str, bytes] = {}             # LFS: sha256 -> content
        self.faults: list[list] = []                    # still to come: [part of a path, fault]

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def create(self, repo: str, files: dict[str, bytes]) -> None:
        self.repos[repo] = {".gitattributes": b"*.safetensors filter=lfs\n", **files}
        self.commits[repo] = 1

    def sha(self, repo: str) -> str:
        """The id of the last commit."""
        return hashlib.sha1(f"{repo} {self.commits[repo]}".encode()).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status: int, body=b"", **headers) -> None:
        """Sends bytes, or anything else as JSON. headers: with _ for - in their names."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        defaults = {"Content-Type": "application/json", "Content-Length": len(data)}
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        self.send_response(status)
        for name, value in (defaults | given).items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    # ------------------------------------------------------------------------------- which request

    def handle_request(self) -> None:
        path = unquote(urlsplit(self.path).path)
        length = int(self.headers.get("Content-Length") or 0)
        fault = self.next_fault(path)
        if fault == "close":
            self.rfile.read(length // 2)
            self.close_connection = True
            self.connection.close()
            return
        body = self.rfile.read(length)
        if fault:
            self.answer(fault, {"error": "a fault of the test"})
        elif path == "/faults":
            self.server.faults = json.loads(body)
            self.answer(200)
        elif self.writes(path) and self.token() != TOKEN:
            self.answer(401, {"error": "Invalid username or password."},
                        X_Error_Message="Invalid credentials in Authorization header")
        else:
            self.dispatch(path, body)

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def next_fault(self, path: str):
        """The first fault that is meant for this path, which then is used up; None if there is
        none."""
        for entry in self.server.faults:
            if entry[0] in path:
                self.server.faults.remove(entry)
                return entry[1]
        return None

    def writes(self, path: str) -> bool:
        return self.command in ("POST", "PUT") and not path.startswith("/blob/")

    def token(self) -> str:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ")

    def dispatch(self, path: str, body: bytes) -> None:
        parts = path.strip("/").split("/")
        if path == "/api/repos/create":
            self.create_repo(json.loads(body))
        elif path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif parts[0] == "blob":
            self.lfs_object(parts[1], body)
        elif path.endswith(".git/info/lfs/objects/batch"):
            self.lfs_batch(json.loads(body)["objects"])
        elif parts[0] == "api":         # /api/models/USER/NAME/ACTION/..
            self.of_repo("/".join(parts[2:4]), parts[4] if len(parts) > 4 else "revision", body)
        else:                           # /USER/NAME/resolve/REVISION/PATH
            self.of_repo("/".join(parts[:2]), "resolve", "/".join(parts[4:]))

    def of_repo(self, repo: str, action: str, content: bytes | str) -> None:
        """A request about one repository. content: the body; of resolve, the path of the file."""
        if repo not in self.server.repos:
            self.answer(404 if self.token() == TOKEN else 401, {"error": "Repository not found"},
                        X_Error_Code="RepoNotFound")
            return
        actions = {"preupload": self.preupload, "commit": self.commit, "tree": self.tree,
                   "revision": self.info, "resolve": self.resolve}
        actions[action](repo, content)

    # ------------------------------------------------------------------------------------- answers

    def create_repo(self, request: dict) -> None:
        repo = f"{request['organization']}/{request['name']}"
        if request["organization"] != "alice":
            self.answer(403, {"error": "You don't have the rights to create a model under this "
                                       "namespace"})
        elif repo in self.server.repos:
            self.answer(409, {"error": "You already created this model repo"})
        else:
            self.server.create(repo, {})
            if request.get("private"):
                self.server.private.add(repo)
            self.answer(200, {"url": f"{self.server.url}/{repo}"})

    def preupload(self, repo: str, body: bytes) -> None:
        """Tells for each file how it is to be sent, and the id of what is there already."""
        answers = []
        for entry in json.loads(body)["files"]:
            path = entry["path"]
            mode = "lfs" if path.endswith(".safetensors") else "regular"
            oid = object_id(path, self.server.repos[repo].get(path))
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.answer(200, {"files": answers})

    def lfs_batch(self, objects: list[dict]) -> None:
        """Tells where each LFS object is to be put. What the server has need not be sent again."""
        answers = []
        for entry in objects:
            if entry["oid"] not in self.server.objects:
                url = f"{self.server.url}/blob"
                actions = {"upload": {"href": f"{url}/{entry['oid']}"},
                           "verify": {"href": f"{url}/verify"}}
                entry = {**entry, "actions": actions}
            answers.append(entry)
        self.answer(200, {"transfer": "basic", "objects": answers})

    def lfs_object(self, oid: str, body: bytes) -> None:
        if self.command == "GET":
            self.answer(200, self.server.objects[oid], Content_Type="application/octet-stream")
        elif self.command == "PUT" and hashlib.sha256(body).hexdigest() != oid:
            self.answer(422)
        elif self.command == "PUT":
            self.server.objects[oid] = body
            self.answer(200)
        else:       # verify
            self.answer(200)

    def commit(self, repo: str, body: bytes) -> None:
        new = {}
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                new[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                if value["oid"] not in self.server.objects:
                    self.answer(422, {"error": "the LFS object was never uploaded"})
                    return
                new[value["path"]] = self.server.objects[value["oid"]]
        self.server.repos[repo].update(new)
        self.server.commits[repo] += 1
        sha = self.server.sha(repo)
        self.answer(200, {"commitUrl": f"{self.server.url}/{repo}/commit/{sha}", "commitOid": sha})

    def info(self, repo: str, _: bytes) -> None:
        files = [{"rfilename": path} for path in self.server.repos[repo]]
        self.answer(200, {"id": repo, "modelId": repo, "sha": self.server.sha(repo),
                          "private": repo in self.server.private, "tags": [], "siblings": files})

    def tree(self, repo: str, _: bytes) -> None:
        files = [{"type": "file", "path": path, "size": len(data),
                  "oid": hashlib.sha1(data).hexdigest()}
                 for path, data in self.server.repos[repo].items()]
        self.answer(200, files)

    def resolve(self, repo: str, path: str) -> None:
        """A download. Weights come by a redirect to the same server under another host name."""
        data = self.server.repos[repo].get(path)
        sha = self.server.sha(repo)
        if data is None:
            self.answer(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound",
                        X_Repo_Commit=sha)
            return
        digest = hashlib.sha256(data).hexdigest()
        if path.endswith(".safetensors"):
            location = f"{self.server.url}/blob/{digest}".replace("127.0.0.1", "localhost")
            self.answer(302, X_Repo_Commit=sha, X_Linked_Etag=f'"{digest}"',
                        X_Linked_Size=len(data), Location=location)
        else:
            self.answer(200, data, X_Repo_Commit=sha, ETag=f'"{digest}"')


def object_id(path: str, data: bytes | None) -> str | None:
    """The id under which Git (for weights: Git LFS) keeps a file; None if there is no file."""
    if data is None:
        return None
    if path.endswith(".safetensors"):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
