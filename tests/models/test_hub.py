"""Hub names, through the hub's own client, against a server on 127.0.0.1 that has the hub's layout."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from ragcun import TextBase

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ENCODE = """
import json, sys
from ragcun import InputError, TextBase
try:
    base = TextBase.load(sys.argv[1])
    print(json.dumps(base.encode(["word1 word2"], "query").tolist()))
except InputError as error:
    print(f"InputError: {error}")
"""


class StandIn(BaseHTTPRequestHandler):
    """A hub that has one model, ``team/tiny``, whose files lie in `folder`."""

    folder: Path

    def files(self):
        return [path for path in self.folder.rglob("*") if path.is_file()]

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        path = self.path.split("?")[0]
        if path.startswith("/api/models/team/tiny"):
            names = [{"rfilename": str(file.relative_to(self.folder))} for file in self.files()]
            if "/tree/" in path:
                value = [{"type": "file", "path": n["rfilename"], "size": 1, "oid": "0" * 40} for n in names]
            else:
                value = {"id": "team/tiny", "sha": COMMIT, "siblings": names, "private": False, "tags": []}
            return self.send(json.dumps(value).encode(), "application/json", body)
        prefix = "/team/tiny/resolve/"
        if path.startswith(prefix):
            file = self.folder / path.removeprefix(prefix).split("/", 1)[1]
            if file.is_file():
                return self.send(file.read_bytes(), "application/octet-stream", body)
            return self.send(b"", "text/plain", body, status=404, error="EntryNotFound")
        return self.send(b"{}", "application/json", body, status=404, error="RepoNotFound")

    def send(self, content, kind, body, status=200, error=None):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def load_by_name(tiny_bert, tmp_path):
    """Load a model by hub name in a fresh process whose hub is the stand-in; return what it printed."""
    handler = type("Handler", (StandIn,), {"folder": Path(tiny_bert)})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"

    def load(name, **environment):
        own = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_DISABLE_XET": "1"}
        done = subprocess.run(
            [sys.executable, "-c", ENCODE, name],
            env=os.environ | own | environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip().splitlines()[-1]

    yield load
    server.shutdown()


def test_a_hub_name_gives_the_folders_model_and_then_works_offline(load_by_name, tiny_bert):
    here = TextBase.load(tiny_bert).encode(["word1 word2"], "query")
    np.testing.assert_allclose(json.loads(load_by_name("team/tiny")), here, atol=1e-6)
    offline = load_by_name("team/tiny", HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_OFFLINE="1")
    np.testing.assert_allclose(json.loads(offline), here, atol=1e-6)


def test_an_unknown_name_and_a_hub_out_of_reach_are_input_errors(load_by_name):
    assert load_by_name("team/other").startswith("InputError: the model hub does not give 'team/other' (404)")
    assert "cannot be reached" in load_by_name("team/tiny", HF_ENDPOINT="http://127.0.0.1:9")


def test_an_alias_is_asked_for_under_its_hub_name(load_by_name):
    assert load_by_name("contriever").startswith("InputError: the model hub does not give 'facebook/contriever' (404)")
