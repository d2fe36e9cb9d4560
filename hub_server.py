"""A small server that speaks the parts of the Hub's HTTP API that a push and a download use; for the tests of hub.py.

    with HubServer() as server:     # server.url goes into HF_ENDPOINT of a fresh process, with HF_HUB_DISABLE_XET=1

Repositories live in memory. One user, alice, with one token. As on the real Hub, weights go through Git LFS (batch, PUT of
the object, verify) and come back by a redirect to another host, small files travel inside the commit, a commit is all or
nothing, what exists is 409, what is another's is 403, a bad token is 401. POST /faults [[path part, fault], ..]: a request
whose path holds the part meets the fault, once: a status, or "close", which drops the connection after half of the body.
"""
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
        self.commits: dict[str, int] = {}               # name -> number of commits
        self.objects: dict[str, bytes] = {}             # LFS: sha256 -> content
        self.faults: list[list] = []
        self.requests: list[str] = []

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def create(self, repo: str, files: dict[str, bytes]) -> None:
        self.repos[repo], self.commits[repo] = {".gitattributes": b"*.safetensors filter=lfs\n", **files}, 1

    def sha(self, repo: str) -> str:
        return hashlib.sha1(f"{repo} {self.commits[repo]}".encode()).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status: int, body=b"", **headers) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": len(data), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def handle_request(self) -> None:
        hub, path = self.server, unquote(urlsplit(self.path).path)
        length = int(self.headers.get("Content-Length") or 0)
        hub.requests.append(f"{self.command} {path}")
        fault = next((f for f in hub.faults if f[0] in path), None)
        if fault:
            hub.faults.remove(fault)
            if fault[1] == "close":
                self.rfile.read(length // 2)
                self.close_connection = True
                return self.connection.close()
        body = self.rfile.read(length)
        if fault:
            return self.answer(fault[1], {"error": "a fault of the test"})
        if path == "/faults":
            hub.faults = json.loads(body)
            return self.answer(200)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if self.command in ("POST", "PUT") and not path.startswith("/blob/") and token != TOKEN:
            return self.answer(401, {"error": "Invalid username or password."},
                               X_Error_Message="Invalid credentials in Authorization header")
        parts = path.strip("/").split("/")
        if path == "/api/repos/create":
            return self.create_repo(json.loads(body))
        if path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        if parts[0] == "blob":
            return self.lfs_object(parts[1], body)
        if path.endswith(".git/info/lfs/objects/batch"):
            return self.answer(200, {"transfer": "basic", "objects": [
                {**o, **({} if o["oid"] in hub.objects else {"actions": {
                    "upload": {"href": f"{hub.url}/blob/{o['oid']}"}, "verify": {"href": f"{hub.url}/blob/verify"}}})}
                for o in json.loads(body)["objects"]]})
        repo = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        if repo not in hub.repos:
            return self.answer(404 if token == TOKEN else 401, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        if parts[0] != "api":
            return self.resolve(repo, "/".join(parts[4:]))
        return {"preupload": self.preupload, "commit": self.commit, "tree": self.tree, "revision": self.info}[
            parts[4] if len(parts) > 4 else "revision"](repo, body)

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def create_repo(self, wanted: dict) -> None:
        repo = f"{wanted['organization']}/{wanted['name']}"
        if wanted["organization"] != "alice":
            return self.answer(403, {"error": "You don't have the rights to create a model under this namespace"})
        if repo in self.server.repos:
            return self.answer(409, {"error": "You already created this model repo"})
        self.server.create(repo, {})
        self.answer(200, {"url": f"{self.server.url}/{repo}"})

    def preupload(self, repo: str, body: bytes) -> None:
        def oid(path):
            data = self.server.repos[repo].get(path)
            if data is None:
                return None
            return hashlib.sha256(data).hexdigest() if path.endswith(".safetensors") else \
                hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        self.answer(200, {"files": [
            {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular",
             "shouldIgnore": False, "oid": oid(f["path"])} for f in json.loads(body)["files"]]})

    def lfs_object(self, oid: str, body: bytes) -> None:
        if self.command == "GET":
            return self.answer(200, self.server.objects[oid], Content_Type="application/octet-stream")
        if self.command == "PUT":
            if hashlib.sha256(body).hexdigest() != oid:
                return self.answer(422)
            self.server.objects[oid] = body
        self.answer(200)

    def commit(self, repo: str, body: bytes) -> None:
        new = {}
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                new[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "lfsFile":
                if line["value"]["oid"] not in self.server.objects:
                    return self.answer(422, {"error": "the LFS object was never uploaded"})
                new[line["value"]["path"]] = self.server.objects[line["value"]["oid"]]
        self.server.repos[repo].update(new)
        self.server.commits[repo] += 1
        sha = self.server.sha(repo)
        self.answer(200, {"commitUrl": f"{self.server.url}/{repo}/commit/{sha}", "commitOid": sha})

    def info(self, repo: str, _: bytes) -> None:
        self.answer(200, {"id": repo, "modelId": repo, "sha": self.server.sha(repo), "private": False, "tags": [],
                          "siblings": [{"rfilename": path} for path in self.server.repos[repo]]})

    def tree(self, repo: str, _: bytes) -> None:
        self.answer(200, [{"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                          for path, data in self.server.repos[repo].items()])

    def resolve(self, repo: str, path: str) -> None:
        data = self.server.repos[repo].get(path)
        if data is None:
            return self.answer(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound", X_Repo_Commit=self.server.sha(repo))
        digest = hashlib.sha256(data).hexdigest()
        if path.endswith(".safetensors"):
            return self.answer(302, X_Repo_Commit=self.server.sha(repo), X_Linked_Etag=f'"{digest}"', X_Linked_Size=len(data),
                               Location=f"{self.server.url}/blob/{digest}".replace("127.0.0.1", "localhost"))
        self.answer(200, data, X_Repo_Commit=self.server.sha(repo), ETag=f'"{digest}"')
