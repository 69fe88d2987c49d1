"""Progress beside an artefact: what was saved is found again, and nothing else is."""

import signal

import pytest

import waiting
from groupmates.artefacts import unfinished
from groupmates.artefacts.store import Provenance
from groupmates.artefacts.unfinished import Kept

PLAIN = Provenance("probe", {"seed": 1}, {"pool": "abc"})


@pytest.fixture
def output(tmp_path):
    return tmp_path / "probe/shard-00000.parquet"


def text(content):
    return lambda path: path.write_text(content)


@pytest.fixture
def saved(output):
    """Progress of an attempt that was killed."""
    with Kept(output, "probe", PLAIN) as kept:
        kept.save({"steps": 3}, {"a": text("one")})
    return kept


def test_what_was_saved_is_found_by_the_next_attempt(output):
    with Kept(output, "probe", PLAIN) as kept:
        assert kept.state == {}
        kept.save({"steps": 3}, {"a": text("one")})
        kept.save({"steps": 5}, {"b": text("two")})
    again = Kept(output, "probe", PLAIN)
    assert again.state == {"steps": 5}
    assert again.files == ["a", "b"]
    assert [again.file(n).read_text() for n in again.files] == ["one", "two"]


def test_only_the_last_files_stay_where_asked(output):
    with Kept(output, "probe", PLAIN) as kept:
        kept.save({"steps": 3}, {"a": text("one")})
        kept.save({"steps": 5}, {"b": text("two")}, only=True)
    assert Kept(output, "probe", PLAIN).files == ["b"]
    assert sorted(p.name for p in kept.folder.iterdir()) == ["b", "index.json"]


@pytest.mark.parametrize(
    "other",
    [
        Provenance("probe", {"seed": 2}, {"pool": "abc"}),
        Provenance("probe", {"seed": 1}, {"pool": "abd"}),
    ],
)
def test_progress_of_other_settings_or_inputs_is_never_picked_up(saved, other, output, capsys):
    found = Kept(output, "probe", other)
    assert (found.state, found.files) == ({}, [])
    assert "other settings or inputs; begins anew" in capsys.readouterr().err
    assert not found.folder.exists()


def test_progress_of_another_version_of_the_artefact_is_never_picked_up(saved, output, monkeypatch):
    raised = dict(unfinished.Provenance.record(PLAIN, "probe"), version=99)
    monkeypatch.setattr(unfinished.Provenance, "record", lambda *_: raised)
    assert Kept(output, "probe", PLAIN).state == {}


def test_another_commit_of_the_code_with_the_same_version_goes_on(saved, output, monkeypatch):
    monkeypatch.setattr("groupmates.artefacts.store.code_revision", lambda: "0.1.0+other-dirty")
    assert Kept(output, "probe", PLAIN).state == {"steps": 3}


@pytest.mark.parametrize("damage", ["file", "index", "missing"])
def test_damaged_progress_is_dropped_with_a_word(saved, damage, output, capsys):
    if damage == "file":
        saved.file("a").write_text("on")
    elif damage == "index":
        (saved.folder / "index.json").write_text("{")
    else:
        saved.file("a").unlink()
    assert Kept(output, "probe", PLAIN).state == {}
    assert "is damaged" in capsys.readouterr().err


def test_a_save_that_fails_halfway_leaves_the_one_before(output):
    def fails(path):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    with Kept(output, "probe", PLAIN) as kept:
        kept.save({"steps": 3}, {"a": text("one")})
        with pytest.raises(OSError, match="No space left"):
            kept.save({"steps": 5}, {"b": fails}, only=True)
    again = Kept(output, "probe", PLAIN)
    assert (again.state, again.files) == ({"steps": 3}, ["a"])
    assert not (again.folder / "b").exists()


def test_what_is_complete_leaves_no_progress(output):
    with Kept(output, "probe", PLAIN) as kept:
        kept.save({"steps": 3}, {"a": text("one")})
        kept.clear()
    assert list(output.parent.iterdir()) == []


def test_saves_are_rarer_where_they_take_long(output, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr(unfinished, "seconds_between_saves", 60.0)

    def slow(path):
        path.write_text("large")
        now[0] += 20

    kept = Kept(output, "probe", PLAIN)
    now[0] = 59
    assert not kept.due()
    now[0] = 60
    assert kept.due()
    kept.save({}, {"a": slow})
    now[0] += 199
    assert not kept.due()
    now[0] += 1
    assert kept.due()


def test_sigterm_saves_and_ends_the_process(output):
    code = f"""
import os, signal
from pathlib import Path
from groupmates.artefacts.unfinished import Kept
from groupmates.artefacts.store import Provenance
made_by = Provenance("probe", {{"seed": 1}}, {{"pool": "abc"}})
with Kept(Path({str(output)!r}), "probe", made_by) as kept:
    os.kill(os.getpid(), signal.SIGTERM)
    assert kept.due()
    kept.save({{"steps": 4}}, {{}})
    print("never")
"""
    done = waiting.python("-c", code)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert "progress is kept" in done.stderr
    assert done.stdout == ""
    assert Kept(output, "probe", PLAIN).state == {"steps": 4}
