"""Files of a run, told apart by the catalogue."""

from pathlib import Path

import pytest

from groupmates.artefacts.catalogue import ARTEFACTS
from groupmates.artefacts.found import Found
from groupmates.errors import UserError

RUN = Path("results/small")


def found(*paths: str) -> Found:
    return Found(RUN, [RUN / path for path in paths])


@pytest.mark.parametrize("name", [n for n in ARTEFACTS if not n.startswith(("dataset", "meg"))])
def test_every_artefact_is_known_by_its_path(name):
    place = ARTEFACTS[name].path
    for wildcard in ("shard", "part", "partition"):
        place = place.replace(f"{{{wildcard}}}", "00012")
    place = place.replace("{", "").replace("}", "")
    assert found(place).all(name) == [RUN / place]


def test_files_are_found_by_name_and_wildcards_in_their_order():
    files = ["score/shard-00001.parquet", "score/shard-00000.parquet"]
    files += ["score/initial/shard-00000.parquet", "score/semantic/shard-00000.parquet"]
    files += ["evaluate/a/seed-1.parquet", "evaluate/a/seed-1.examples.parquet", "fit/final"]
    run = found(*files)
    assert run.all("score") == [RUN / path for path in files[:2]]
    assert run.all("score_by", model="initial") == [RUN / files[2]]
    assert run.all("score_by", model="final") == []
    assert run.all("semantic") == [RUN / files[3]]
    assert run.by("method", "curve") == {"a": [RUN / files[4]]}
    assert run.one("fit", model="final") == RUN / "fit/final"


@pytest.mark.parametrize("path", ["score/notes.txt", "../other/evaluate/summary.json"])
def test_what_is_no_artefact_of_the_run_is_refused(path):
    with pytest.raises(UserError, match="artefacts of the run"):
        found(path)
