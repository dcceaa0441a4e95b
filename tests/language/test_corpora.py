"""Texts by name: the published sizes, downloads from a server of our own, and what can go wrong."""

import hashlib
import http.server
import io
import threading
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from lstm_jax.language import TextError, corpora, download, load_corpus

CONTENT = b"The Time Machine, by H. G. Wells [1898]\n\n\nI\n\nThe Time Traveller (for so\n" * 100
PARTS = {
    "train": " the <unk> said no \n it said no N times \n",
    "valid": " the times \n",
    "test": " it said a word \n no \n",
}


class Server(http.server.ThreadingHTTPServer):
    """Sends its ``content``, or what an ``answer`` makes of the request; counts the requests."""

    content = b""
    answer = None
    requests = 0

    def url(self, name):
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests += 1
        if self.server.answer:
            self.server.answer(self)
        else:
            self.send(self.server.content, len(self.server.content))

    def send(self, content, length):
        self.send_response(200)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with Server(("127.0.0.1", 0), Handler) as served:
        served.content = CONTENT
        thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield served
        served.shutdown()
        thread.join()


@pytest.fixture
def cache(monkeypatch, tmp_path):
    folder = tmp_path / "cache" / "of texts"
    monkeypatch.setenv("LSTM_JAX_DATA", str(folder))
    return folder


def source_of(content, name, *urls):
    return download.Source(name, urls, hashlib.sha256(content).hexdigest(), len(content), "made up")


@pytest.fixture
def small(monkeypatch, server, cache):
    """A small text in the place of The Time Machine, on our server."""
    source = source_of(CONTENT, "timemachine.txt", server.url("timemachine.txt"))
    monkeypatch.setattr(corpora, "TIMEMACHINE", source)
    return source


def archive(parts):
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("ptb/", "")
        for part, text in parts.items():
            made.writestr(f"ptb/ptb.{part}.txt", text)
    return held.getvalue()


@pytest.fixture
def small_ptb(monkeypatch, server, cache):
    """A small corpus in the place of the Penn Treebank, on our server."""
    server.content = archive(PARTS)
    source = source_of(server.content, "ptb.zip", server.url("ptb.zip"))
    monkeypatch.setattr(corpora, "PTB", source)
    parts = {part: source_of(text.encode(), f"ptb.{part}.txt") for part, text in PARTS.items()}
    monkeypatch.setattr(corpora, "PTB_PARTS", parts)
    return source


def assert_is_small_ptb(corpus):
    tokens = ("<unk>", "<eos>", "no", "said", "N", "it", "the", "times")
    assert corpus.vocabulary == (tokens, 0, "words")
    assert corpus.codes.tolist() == [6, 0, 3, 2, 1, 5, 3, 2, 4, 7, 1]
    assert corpus.valid.tolist() == [6, 7, 1]
    assert corpus.test.tolist() == [5, 3, 0, 0, 1, 2, 1]


def left_in(folder):
    return (
        sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
        if folder.exists()
        else []
    )


def test_the_time_machine_has_the_book_s_numbers(data_folder, cache):
    raw = (data_folder / "timemachine.txt").read_bytes()
    assert hashlib.sha1(raw).hexdigest() in corpora.TIMEMACHINE.remarks
    corpus = load_corpus("timemachine", data_folder)
    assert len(corpus.codes) == 170_580
    assert corpus.vocabulary.size == 28
    assert corpus.vocabulary.tokens[:6] == ("<unk>", " ", "e", "t", "a", "i")
    assert corpus.valid is None
    text = corpus.vocabulary.decode(corpus.codes)
    assert text.startswith("the time machine by h g wellsithe time traveller for so it will be")
    counts = Counter(text)
    assert [counts[t] for t in corpus.vocabulary.tokens[1:]] == sorted(
        counts.values(), reverse=True
    )
    assert not cache.exists()


def test_the_penn_treebank_has_its_published_sizes(data_folder):
    files = ["ptb.zip", "ptb.train.txt", "ptb/ptb.train.txt"]
    if not any((data_folder / name).is_file() for name in files):
        pytest.skip(f"no ptb.zip in {data_folder}")
    corpus = load_corpus("ptb", data_folder)
    assert [len(codes) for codes in corpus[2:]] == [929_589, 73_760, 82_430]
    assert corpus.vocabulary.size == 10_000
    assert corpus.vocabulary.tokens[:5] == ("<unk>", "the", "<eos>", "N", "of")
    # The other parts hold no word that the first does not: <unk> is as frequent as the files write it.
    assert [int((codes == 0).sum()) for codes in corpus[2:]] == [45_020, 3_485, 4_794]


def test_the_embedded_text_and_a_file(tmp_path):
    assert load_corpus("embedded").codes.size > 100_000
    path = tmp_path / "ptb"
    path.write_text("abba", encoding="utf-8")
    for named in (path, str(path)):
        corpus = load_corpus(named)
        assert (corpus.name, corpus.vocabulary.tokens, corpus.codes.tolist()) == (
            "ptb",
            ("a", "b"),
            [0, 1, 1, 0],
        )
    with pytest.raises(
        TextError, match="Unknown text: expected one of 'embedded', .*'ptb', or a text"
    ):
        load_corpus("time-machine")
    with pytest.raises(TextError, match="Unreadable text: expected a text file"):
        load_corpus(tmp_path / "nothing")


def test_a_download_is_made_once_and_kept(small, server, cache):
    first = load_corpus("timemachine")
    assert left_in(cache) == ["timemachine.txt"]
    assert (cache / "timemachine.txt").read_bytes() == CONTENT
    assert server.requests == 1
    server.content = b"gone"
    again = load_corpus("timemachine")
    assert server.requests == 1
    assert again.vocabulary == first.vocabulary
    np.testing.assert_array_equal(again.codes, first.codes)
    text = first.vocabulary.decode(first.codes)
    assert text.startswith("the time machine by h g wellsithe time traveller for sothe time")


def test_a_spoilt_cache_is_filled_anew(small, server, cache):
    cache.mkdir(parents=True)
    (cache / "timemachine.txt").write_bytes(CONTENT[:-1] + b"x")
    load_corpus("timemachine")
    assert server.requests == 1
    assert (cache / "timemachine.txt").read_bytes() == CONTENT


def test_a_folder_is_read_and_nothing_fetched(small, server, cache, tmp_path):
    (tmp_path / "timemachine.txt").write_bytes(CONTENT)
    load_corpus("timemachine", tmp_path)
    assert server.requests == 0
    assert not cache.exists()
    (tmp_path / "timemachine.txt").write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(
        TextError, match="Data mismatch: expected .* 7[0-9]{3} bytes with sha256 .*, got sha"
    ):
        load_corpus("timemachine", tmp_path)
    (tmp_path / "timemachine.txt").write_bytes(CONTENT[:40])
    with pytest.raises(TextError, match="Data mismatch: expected .*, got 40 bytes"):
        load_corpus("timemachine", tmp_path)
    with pytest.raises(TextError, match="Missing data: expected timemachine.txt in .*, got none"):
        load_corpus("timemachine", tmp_path / "cache")
    assert server.requests == 0


def cut_off(handler):
    handler.send(CONTENT[:-100], len(CONTENT))


def cut_off_without_a_length(handler):
    handler.send(CONTENT[:-100], None)


FAILURES = {
    "another file": (lambda h: h.send(CONTENT[::-1], len(CONTENT)), "got sha256 [0-9a-f]{64} from"),
    "a longer file": (lambda h: h.send(CONTENT * 2, 2 * len(CONTENT)), "got more bytes from"),
    "a body cut off": (cut_off, rf"got ({len(CONTENT) - 100} bytes|IncompleteRead.*) from"),
    "no length": (cut_off_without_a_length, f"got {len(CONTENT) - 100} bytes from"),
    "a page instead": (lambda h: h.send(b"<html>", 6), "got 6 bytes from"),
    "not found": (lambda h: h.send_error(404), "got 404 Not Found from"),
    "forbidden": (lambda h: h.send_error(403), "got 403 Forbidden from"),
    "no HTTP": (
        lambda h: h.wfile.write(b"\0\1\2\n"),
        r"got what is no HTTP \(BadStatusLine\) from",
    ),
    "no answer": (lambda h: None, "got Remote end closed connection without response from"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_failed_download_leaves_nothing(small, server, cache, case, monkeypatch):
    server.answer, message = FAILURES[case]
    monkeypatch.setattr(server, "handle_error", lambda *arguments: None)
    with pytest.raises(
        TextError, match=f"Failed download: expected timemachine.txt of .* {message}"
    ) as caught:
        load_corpus("timemachine")
    assert server.url("timemachine.txt") in str(caught.value)
    assert str(caught.value).endswith("name a folder that has it with --data DIR.")
    assert "\n" not in str(caught.value)
    assert left_in(cache) == []
    server.answer = None
    load_corpus("timemachine")


def test_a_server_that_is_not_there_and_one_that_is(small, server, cache, monkeypatch):
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as closed:
        nowhere = f"http://127.0.0.1:{closed.server_port}/timemachine.txt"
    monkeypatch.setattr(corpora, "TIMEMACHINE", small._replace(urls=(nowhere,)))
    with pytest.raises(TextError, match="Failed download: .*got .*refused from http.*--data DIR"):
        load_corpus("timemachine")
    assert left_in(cache) == []
    monkeypatch.setattr(corpora, "TIMEMACHINE", small._replace(urls=(nowhere, *small.urls)))
    load_corpus("timemachine")
    assert server.requests == 1


def test_a_server_that_does_not_answer_in_time(small, server, cache, monkeypatch):
    waiting = threading.Event()
    server.answer = lambda handler: waiting.wait(10)
    monkeypatch.setattr(download, "TIMEOUT", 0.1)
    with pytest.raises(TextError, match="Failed download: .*got .*timed out from http"):
        load_corpus("timemachine")
    waiting.set()
    assert left_in(cache) == []


def test_a_run_that_is_interrupted_leaves_nothing(small, cache, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_corpus("timemachine")
    assert left_in(cache) == []


def test_a_cache_that_cannot_be_written(small, server, monkeypatch, tmp_path):
    # Whoever runs the tests, also root, cannot make a folder below a file.
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("LSTM_JAX_DATA", str(tmp_path / "file" / "cache"))
    with pytest.raises(TextError, match="Unwritable cache: expected to keep .* by LSTM_JAX_DATA"):
        load_corpus("timemachine")
    assert server.requests == 0


def test_a_disk_that_is_full(small, cache, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(TextError, match="Unwritable cache: .*got 'No space left on device'"):
        load_corpus("timemachine")
    assert left_in(cache) == []


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("LSTM_JAX_DATA", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert download.cache_folder() == tmp_path / ".cache" / "lstm_jax"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert download.cache_folder() == tmp_path / ".cache" / "lstm_jax"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert download.cache_folder() == tmp_path / "xdg" / "lstm_jax"
    monkeypatch.setenv("LSTM_JAX_DATA", str(tmp_path / "own"))
    assert download.cache_folder() == tmp_path / "own"


def test_the_penn_treebank_s_form_from_a_server(small_ptb, server, cache):
    assert_is_small_ptb(load_corpus("ptb"))
    assert_is_small_ptb(load_corpus("ptb"))
    assert server.requests == 1
    assert left_in(cache) == ["ptb.zip"]


@pytest.mark.parametrize("below", ["", "ptb"])
def test_the_penn_treebank_s_form_from_files_in_a_folder(small_ptb, server, tmp_path, below):
    folder = tmp_path / "data"
    (folder / below).mkdir(parents=True)
    for part, text in PARTS.items():
        (folder / below / f"ptb.{part}.txt").write_text(text, encoding="utf-8")
    assert_is_small_ptb(load_corpus("ptb", folder))
    (folder / below / "ptb.valid.txt").write_text(" it times \n", encoding="utf-8")
    with pytest.raises(
        TextError, match=r"Data mismatch: expected .*ptb\.valid\.txt of 12 bytes .*, got 11 bytes"
    ):
        load_corpus("ptb", folder)
    (folder / below / "ptb.valid.txt").unlink()
    with pytest.raises(TextError, match=r"Missing data: expected ptb\.valid\.txt in"):
        load_corpus("ptb", folder)
    assert server.requests == 0


def test_the_penn_treebank_s_form_from_an_archive_in_a_folder(small_ptb, server, tmp_path):
    with pytest.raises(TextError, match=r"Missing data: expected ptb\.zip in .*, got none"):
        load_corpus("ptb", tmp_path)
    (tmp_path / "ptb.zip").write_bytes(server.content)
    assert_is_small_ptb(load_corpus("ptb", tmp_path))
    (tmp_path / "ptb.zip").write_bytes(server.content[:-1])
    with pytest.raises(TextError, match=r"Data mismatch: expected .*ptb\.zip of"):
        load_corpus("ptb", tmp_path)
    assert server.requests == 0
