"""Errors: also of the builtin that stands for their kind, one sentence, and whole after a trip between processes."""

import pickle

import pytest

from msip import Manifest, build, errors
from msip.errors import MsipError

CLASSES = [kind for kind in vars(errors).values() if isinstance(kind, type) and kind is not MsipError]


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_is_a_builtin_too_and_says_its_sentence(kind):
    assert issubclass(kind, MsipError) and issubclass(kind, (ValueError, OSError, RuntimeError, ImportError))
    again = pickle.loads(pickle.dumps(kind("one sentence.")))
    assert type(again) is kind and str(again) == str(kind("one sentence.")) == "one sentence."


def test_what_python_users_expect_is_raised(tmp_path):
    with pytest.raises(FileNotFoundError, match="no manifest"):
        Manifest.read(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"the folder .* as `folder`"):
        build(None, tmp_path / "out", folder=tmp_path / "nowhere")
    with pytest.raises(ValueError, match="`raw` for a corpus, or `folder`"):
        build(None, tmp_path / "out")
    (tmp_path / "file").touch()
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "a.png").touch()
    with pytest.raises(OSError, match="cannot write"):
        build(None, tmp_path / "file" / "out", folder=tmp_path / "frames")
