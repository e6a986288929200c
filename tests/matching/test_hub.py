"""The model hub, played by a local server of its layout, through the client in a fresh process."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from matching.checkpoint import convert_checkpoint, save_checkpoint
from matching.errors import MissingPackageError
from matching.hub import download, is_hub_id
from matching.network import NetworkConfig, build_network
from tests.matching.matcher_suite import textured

pytest.importorskip("huggingface_hub")

REPO = "someone/some-network"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = bytes(range(256)) * 4096  # 1 MiB
CONFIG = b'{"enc_depth": 2}\n'


class Hub(ThreadingHTTPServer):
    """Serves one repository; the tests choose how badly.

    Attributes:
        mode: "good", "cut" (the weights break off half-way, always), "cut once", "wrong" (other
            bytes of the same length).
        requests: What was asked for.
    """

    mode = "good"

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[str] = []
        self.cuts = 0
        self.files = {"config.json": CONFIG, "model.safetensors": WEIGHTS}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._serve(body=False)

    def do_GET(self) -> None:
        self._serve(body=True)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _serve(self, *, body: bool) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        files = self.server.files
        name = self.path.rpartition("/")[2]
        known = self.path in {
            f"/{REPO}/resolve/{revision}/{name}" for revision in ("main", "v1", COMMIT)
        }
        if name not in files or not known:
            self.send_response(404)
            code = "EntryNotFound" if self.path.startswith(f"/{REPO}/") else "RepoNotFound"
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = files[name]
        if name == "config.json":
            etag = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        else:
            etag = hashlib.sha256(content).hexdigest()
        start = 0
        wanted = self.headers.get("Range")
        if wanted:
            start = int(wanted.removeprefix("bytes=").split("-")[0])
        self.send_response(206 if wanted else 200)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", COMMIT)
        if name == "model.safetensors":
            self.send_header("X-Linked-Etag", f'"{etag}"')
            self.send_header("X-Linked-Size", str(len(content)))
            if self.server.mode == "wrong":
                content = bytes(len(content))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if not body:
            return
        rest = content[start:]
        cut = self.server.mode == "cut" or (self.server.mode == "cut once" and not self.server.cuts)
        if cut and name == "model.safetensors":
            self.server.cuts += 1
            # an answer that resumes gets nothing at all, or the client would get there bit by bit
            self.wfile.write(b"" if wanted else rest[: len(rest) // 2])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return
        self.wfile.write(rest)


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


PROGRAM = """
import json, sys
from matching.errors import InputError
from matching.hub import download
try:
    folder = download(sys.argv[1], ("config.json", "model.safetensors"))
    print(json.dumps({"folder": str(folder)}))
except InputError as error:
    print(json.dumps({"error": str(error)}))
"""


def fetch(cache: Path, endpoint: str, hub_id: str = REPO, *, offline: bool = False) -> Any:
    """`download` in a process of its own: the client reads its environment when imported."""
    done = in_a_process(cache, endpoint, ["-c", PROGRAM, hub_id], offline=offline)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def in_a_process(
    cache: Path, endpoint: str, arguments: list[str], *, offline: bool = False
) -> subprocess.CompletedProcess[str]:
    """Python with the client pointed at the local server and a cache of its own."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(cache),
        "HF_HUB_CACHE": str(cache / "hub"),
        "HF_HUB_OFFLINE": "1" if offline else "0",
        "HF_HUB_DOWNLOAD_TIMEOUT": "5",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def blobs(cache: Path) -> list[Path]:
    return [p for p in cache.rglob("*") if p.is_file() and "blobs" in p.parts]


def test_a_repository_is_fetched_once_and_found_offline(tmp_path: Path, hub: Hub) -> None:
    folder = Path(fetch(tmp_path, hub.url)["folder"])
    assert (folder / "config.json").read_bytes() == CONFIG
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    fetched = [request for request in hub.requests if request.startswith("GET")]
    assert len(fetched) == 2
    again = fetch(tmp_path, hub.url, offline=True)
    assert again == {"folder": str(folder)}
    assert [request for request in hub.requests if request.startswith("GET")] == fetched
    assert fetch(tmp_path, hub.url, f"{REPO}@v1") == {"folder": str(folder)}


def test_command_line_matches_with_a_hub_id(tmp_path: Path, hub: Hub) -> None:
    config = NetworkConfig(
        architecture="AsymmetricCroCo3DStereo",
        img_size=(64, 64),
        enc_embed_dim=16,
        enc_depth=1,
        enc_num_heads=2,
        dec_embed_dim=8,
        dec_depth=1,
        dec_num_heads=2,
    )
    save_checkpoint(config, build_network(config).state_dict(), tmp_path / "a.safetensors")
    folder = convert_checkpoint(tmp_path / "a.safetensors", tmp_path / "folder")
    hub.files = {path.name: path.read_bytes() for path in folder.iterdir()}
    photo = tmp_path / "photo.png"
    Image.fromarray(textured(48, 64)).save(photo)
    command = ["groundloc.py", "match", str(photo), str(photo), "--matcher", REPO, "--json"]
    command += ["--set", "matcher.min_confidence=0"]
    done = in_a_process(tmp_path / "cache", hub.url, command)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("config.json", "model.safetensors"):
        assert done.stderr.count(f"INFO: fetching {name} of '{REPO}' from the hub\n") == 1
    result = json.loads(done.stdout)
    assert result["matcher"]["name"] == REPO
    assert len(result["keypoints0"]) == result["num_matches"]


def test_the_client_says_once_that_it_tries_again(tmp_path: Path) -> None:
    program = """
import huggingface_hub.utils, groundloc
groundloc._configure_logging(groundloc.make_parser(groundloc.COMMANDS).parse_args(["info", "map"]))
huggingface_hub.utils.logging.get_logger("huggingface_hub.utils._http").warning("Retrying in 1s")
"""
    done = in_a_process(tmp_path, "http://127.0.0.1:9", ["-c", program])
    assert (done.returncode, done.stderr.count("Retrying in 1s")) == (0, 1), done.stderr


def test_what_is_not_there_is_said_in_one_line(tmp_path: Path, hub: Hub) -> None:
    for hub_id, offline in ((REPO, True), ("someone/else", False), (f"{REPO}@v2", False)):
        error = fetch(tmp_path, hub.url, hub_id, offline=offline)["error"]
        assert hub_id in error and "\n" not in error
        assert "nor could config.json be fetched" in error
    assert blobs(tmp_path) == []


def test_an_interrupted_download_is_resumed(tmp_path: Path, hub: Hub) -> None:
    hub.mode = "cut once"
    folder = Path(fetch(tmp_path, hub.url)["folder"])
    assert hub.cuts == 1
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


def test_a_download_that_breaks_off_leaves_nothing_to_be_misread(tmp_path: Path, hub: Hub) -> None:
    hub.mode = "cut"
    error = fetch(tmp_path, hub.url)["error"]
    assert "model.safetensors" in error and "\n" not in error
    assert not any(p.name == "model.safetensors" for p in tmp_path.rglob("*"))
    assert "error" in fetch(tmp_path, hub.url, offline=True)
    hub.mode = "good"
    folder = Path(fetch(tmp_path, hub.url)["folder"])
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


def test_a_wrong_hash_is_refused_and_removed(tmp_path: Path, hub: Hub) -> None:
    hub.mode = "wrong"
    error = fetch(tmp_path, hub.url)["error"]
    assert "model.safetensors arrived damaged" in error and "was removed" in error
    assert not any(p.name == "model.safetensors" for p in tmp_path.rglob("*"))
    assert all(p.stat().st_size < len(WEIGHTS) for p in blobs(tmp_path))
    hub.mode = "good"
    folder = Path(fetch(tmp_path, hub.url)["folder"])
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


def test_without_the_client_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'groundloc\[hub\]'"):
        download(REPO, ("config.json",))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("naver/MASt3R_ViTLarge_BaseDecoder_512_catmlpdpt_metric", True),
        ("owner/name@v1.0", True),
        ("owner/name@refs/pr/3", True),
        ("name", False),
        ("weights/official.pth", False),
        ("weights/model.safetensors", False),
        ("./folder/name", False),
        ("../name", False),
        ("a/b/c", False),
        ("/absolute/name", False),
    ],
)
def test_what_looks_like_a_hub_id(text: str, expected: bool) -> None:
    assert is_hub_id(text) is expected
