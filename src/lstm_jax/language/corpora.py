"""Load texts by name, as tokens.

    embedded      the language reference that CPython carries; characters
    timemachine   H. G. Wells, The Time Machine, in 26 letters and the blank, as in Zhang et al., Dive into
                  Deep Learning; characters by frequency
    ptb           the Penn Treebank's Wall Street Journal, in the form of Mikolov et al. 2010, in parts to
                  train on, to choose by and to report on; words by frequency

Any other name is that of a text file; characters.
"""

import io
import re
import zipfile
from pathlib import Path

from lstm_jax.language.download import Source, checked, contents
from lstm_jax.language.text import Corpus, embedded_text, encode, read_text
from lstm_jax.language.vocabulary import TextError, frequency_vocabulary
from lstm_jax.validation import AnyPath, require_path, require_text

NAMES = ("embedded", "timemachine", "ptb")
"""The texts that have a name."""

_SERVER = "http://d2l-data.s3-accelerate.amazonaws.com"
# The same files, from the book's repository until 2020.
_REPOSITORY = (
    "https://raw.githubusercontent.com/d2l-ai/d2l-zh/b1d7d1c0282404c3891d7eb673bfa7c8c701b359/data"
)

TIMEMACHINE = Source(
    file="timemachine.txt",
    urls=(f"{_SERVER}/timemachine.txt", f"{_REPOSITORY}/timemachine.txt"),
    sha256="8424dbd9532ac81f7e5f0b6add90e6952baea29158309d7d1bf3884f4e12c516",
    size=178_979,
    remarks="H. G. Wells, The Time Machine, 1895; public domain; "
    "the book gives its sha1, 090b5e7e70c295757f55df93cb0a180b9691891a",
)

PTB = Source(
    file="ptb.zip",
    urls=(f"{_SERVER}/ptb.zip", f"{_REPOSITORY}/ptb.zip"),
    sha256="310d8f602882a5716613815ed75596e5764ea84ed04c5630eebaaf2b943ec5aa",
    size=1_981_551,
    remarks="Penn Treebank 3 (LDC99T42), no open licence; prepared by T. Mikolov; "
    "the book gives its sha1, 319d85e578af0cdc590547f26231e4e31cdf1e42",
)

PTB_PARTS = {
    "train": Source(
        file="ptb.train.txt",
        urls=(),
        sha256="fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
        size=5_101_618,
        remarks="929,589 tokens",
    ),
    "valid": Source(
        file="ptb.valid.txt",
        urls=(),
        sha256="c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
        size=399_782,
        remarks="73,760 tokens",
    ),
    "test": Source(
        file="ptb.test.txt",
        urls=(),
        sha256="dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
        size=449_945,
        remarks="82,430 tokens",
    ),
}
"""The files in the folder ``ptb`` of ``ptb.zip``."""


def load_corpus(name: AnyPath, data: AnyPath | None = None) -> Corpus:
    """Read a text by its name, and download it if necessary.

    A download is stored in ``$LSTM_JAX_DATA``, else in the user's cache folder, and checked at every use.

    Args:
        name: ``"embedded"``, ``"timemachine"``, ``"ptb"``, or the path of a text file in UTF-8.
        data: a folder with the files of a named text; nothing is downloaded then. For ``"ptb"`` either
            ``ptb.zip``, or the three files in it.

    Returns:
        The text in numbers.

    Raises:
        TextError: a text that cannot be loaded, has the wrong checksum, or has fewer than two characters.

    Example:
        >>> from lstm_jax.language import load_corpus
        >>> corpus = load_corpus("embedded")
        >>> corpus.name, corpus.vocabulary.kind, corpus.codes.dtype.name
        ('pydoc_data.topics', 'characters', 'int32')
    """
    data = None if data is None else require_path("data", data)
    if name == "embedded":
        return encode(embedded_text(), "pydoc_data.topics")
    if name == "timemachine":
        return _timemachine(data)
    if name == "ptb":
        return _ptb(data)
    path = require_path("name", name)
    if isinstance(name, str) and not path.exists():
        known = ", ".join(repr(known) for known in NAMES)
        raise TextError(f"Unknown text: expected one of {known}, or a text file, got {name!r}.")
    return encode(read_text(path), path.name)


def letters(text: str) -> str:
    r"""A text in lower-case letters and blanks, its lines joined without anything between them.

    The preprocessing of Dive into Deep Learning: in each line, all that is not a letter becomes one blank,
    and the line loses those at its ends.

    Example:
        >>> from lstm_jax.language.corpora import letters
        >>> letters("The Time-Machine,\n  by H. G. Wells\n")
        'the time machineby h g wells'
    """
    require_text("text", text)
    lines = (re.sub("[^A-Za-z]+", " ", line).strip().lower() for line in text.split("\n"))
    return "".join(lines)


def _timemachine(data: Path | None) -> Corpus:
    text = letters(contents(TIMEMACHINE, data).decode("utf-8"))
    vocabulary = frequency_vocabulary(text)
    return Corpus("timemachine", vocabulary, vocabulary.encode(text))


def _ptb(data: Path | None) -> Corpus:
    texts = _ptb_texts(data)
    vocabulary = frequency_vocabulary(texts["train"], "words")
    train, valid, test = (vocabulary.encode(texts[part]) for part in PTB_PARTS)
    return Corpus("ptb", vocabulary, train, valid, test)


def _ptb_texts(data: Path | None) -> dict[str, str]:
    """The parts, from the archive or from files that lie in a folder."""
    for folder in () if data is None else (data, data / "ptb"):
        if any((folder / source.file).exists() for source in PTB_PARTS.values()):
            return {
                part: checked(source, folder / source.file).decode("utf-8")
                for part, source in PTB_PARTS.items()
            }
    with zipfile.ZipFile(io.BytesIO(contents(PTB, data))) as archive:
        return {
            part: archive.read(f"ptb/{source.file}").decode("utf-8")
            for part, source in PTB_PARTS.items()
        }
