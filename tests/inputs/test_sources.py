"""Sources: every way to hand in a file, and every way that fails, with words that help."""

from __future__ import annotations

import base64
import io
import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from minicpm_o.errors import AudioError, ImageError, VideoError
from minicpm_o.inputs import sources
from minicpm_o.inputs.sources import decode_base64, guess_format, open_source, read_source


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "some file.bin"
    path.write_bytes(b"content")
    return path


@pytest.fixture
def web():
    """A web server on this machine: /file answers, /turn leads to a local file, the rest is missing."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response({"/file": 200, "/turn": 302}.get(self.path, 404))
            if self.path == "/turn":
                self.send_header("Location", "file:///etc/hostname")
            self.end_headers()
            self.wfile.write(b"from the web" if self.path == "/file" else b"")

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_every_form_gives_the_same_bytes(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    encoded = base64.b64encode(b"content").decode()
    forms = [file, str(file), file.name, b"content", bytearray(b"content"), memoryview(b"content"),
             io.BytesIO(b"content"), file.as_uri(), f"data:image/png;base64,{encoded}", "data:,content",
             f"DATA:;BASE64,{encoded.rstrip('=')}"]
    for form in forms:
        assert read_source(form, kind="image") == b"content", form


def test_home_is_expanded(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(file.parent))
    assert read_source("~/" + file.name, kind="audio") == b"content"


def test_file_objects_are_read_from_where_they_stand_and_stay_open(file: Path) -> None:
    with file.open("rb") as handle:
        handle.seek(3)
        assert read_source(handle, kind="audio") == b"tent"
        assert not handle.closed


def test_files_on_disk_are_not_read_whole(file: Path) -> None:
    with open_source(file, kind="video") as handle:
        assert handle.seekable() and handle.read(3) == b"con"


@pytest.mark.parametrize(("kind", "error"), [("image", ImageError), ("audio", AudioError), ("video", VideoError)])
def test_missing_file_raises_the_error_of_its_kind(kind: str, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"there is no .* file at 'nowhere\.x' \(looked in .*check the path"):
        read_source("nowhere.x", kind=kind)


@pytest.mark.parametrize(("source", "words"), [
    ("", "path is empty"),
    ("   ", "path is empty"),
    ("a\0b", "cannot be used"),
    ("x" * 5000, "cannot be used"),
    (b"", "empty"),
    ("data:image/png;base64,", "empty"),
    (io.BytesIO(), "empty"),
    (io.StringIO("text"), "mode 'rb'"),
    ("data:image/png;base64", "no comma"),
    ("data:image/png;base64,%%%", "not valid base64"),
    ("data:image/png;base64,abcde", "not valid base64"),
    ("http://example.invalid/x.png", "allow_urls=True"),
    ("HTTPS://example.invalid/x.png", "allow_urls=True"),
    ("ftp://example.invalid/x.png", "ftp:// is not known"),
    ("s3://bucket/x.png", "s3:// is not known"),
    ("file://elsewhere/x.png", "names the host"),
    ("file:///nowhere/x.png", "there is no image file"),
    (None, "of type NoneType"),
    (0, "of type int"),
    (["a.png"], "of type list"),
    (b"x" * 11, "larger than the limit"),
])
def test_bad_sources_say_what_is_wrong(source: object, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        read_source(source, kind="image", max_bytes=10)


def test_bytes_paths_are_refused(file: Path) -> None:
    class BytesPath(os.PathLike):
        def __fspath__(self) -> bytes:
            return os.fsencode(file)

    with pytest.raises(ImageError, match="is bytes"):
        read_source(BytesPath(), kind="image")


def test_directory(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="is a directory"):
        read_source(tmp_path, kind="image")


def test_path_through_a_file(file: Path) -> None:
    with pytest.raises(ImageError, match="cannot be used"):
        read_source(file / "inner.png", kind="image")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_pipes_and_devices_are_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(AudioError, match="not a regular file"):
            read_source(path, kind="audio")


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    with pytest.raises(AudioError, match=r"empty\.wav' is empty \(0 bytes\)"):
        read_source(tmp_path / "empty.wav", kind="audio")


def test_unreadable_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)                               # chmod does not stop root
    with pytest.raises(VideoError, match="cannot be read: Permission denied"):
        read_source(file, kind="video")


def test_too_large_file_is_refused_unread(file: Path) -> None:
    with pytest.raises(ImageError, match="larger than the limit of 0 MiB for an image; shrink"):
        read_source(file, kind="image", max_bytes=3)


def test_endless_streams_are_cut_off() -> None:
    class Endless:
        num_read = 0

        def read(self, size: int) -> bytes:
            self.num_read += size
            return b"x" * size

    stream = Endless()
    with pytest.raises(ImageError, match="larger than the limit"):
        read_source(stream, kind="image", max_bytes=100)
    assert stream.num_read == 101


def test_url_is_fetched_when_allowed(web: str) -> None:
    assert read_source(f"{web}/file", kind="image", allow_urls=True) == b"from the web"
    with pytest.raises(ImageError, match="larger than the limit"):
        read_source(f"{web}/file", kind="image", allow_urls=True, max_bytes=5)


@pytest.mark.parametrize(("path", "words"), [("/absent", "answered 404"), ("/turn", "could not fetch")])
def test_url_that_fails(web: str, path: str, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        read_source(web + path, kind="image", allow_urls=True)


def test_url_that_nobody_answers() -> None:
    with pytest.raises(AudioError, match="check the URL and the network"):
        read_source("http://127.0.0.1:9/x.wav", kind="audio", allow_urls=True)


def test_base64_takes_what_clients_send() -> None:
    assert decode_base64("_-8=") == decode_base64("/+8") == decode_base64("/+\n8=") == b"\xff\xef"
    with pytest.raises(ValueError):
        decode_base64("ä")


@pytest.mark.parametrize(("head", "name"), [
    (b"\x89PNG\r\n\x1a\n", "a PNG picture"), (b"RIFF\0\0\0\0WAVEfmt ", "WAV sound"), (b"%PDF-1.7", "a PDF document"),
    (b"\xef\xbb\xbf  <html>", "a web page"), (b"version https://git-lfs", "a Git LFS pointer, not the file itself"),
    (b"hello", None), (b"", None)])
def test_guess_format(head: bytes, name: str | None) -> None:
    assert guess_format(head) == name


def test_names_in_messages_are_short() -> None:
    assert len(sources.name_of("x" * 5000)) < 250
    assert sources.name_of("data:" + "x" * 5000) == "the data: URL"
    assert sources.name_of(b"abc") == "the given 3 bytes"
