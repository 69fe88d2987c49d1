"""Claims about how the report looks at the pool: against brute force over the whole of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from test_report import MADE, METHODS, report, settings, surveyed, synthetic_run

from groupmates.artefacts.store import embedded_as, read_table, write_table
from groupmates.errors import UserError
from groupmates.pool.listing import PoolFile
from groupmates.report import atlas, examples
from groupmates.report.data import neighbours, reading, texts
from groupmates.report.data.survey import documents_at, source_name
from groupmates.settings.config import PoolColumns
from tables import embedded


def whole(arguments):
    """Every document of a synthetic run: influence, cluster, kept by group_mates, embedding, place."""
    columns = []
    for shard, (score, cluster) in enumerate(
        zip(arguments["score"], arguments["cluster"], strict=True)
    ):
        scored = read_table(score, "score")
        selected = reading.by_method(arguments["select"])[METHODS[0]][score.name]
        kept = np.isin(
            scored["doc_id"].to_pylist(), read_table(selected, "select")["doc_id"].to_pylist()
        )
        columns.append(
            (
                scored["individual_influence"].to_numpy(),
                read_table(cluster, "cluster")["cluster"].to_numpy(),
                kept,
                embedded(score, "score"),
                np.column_stack([np.full(len(kept), shard), np.arange(len(kept))]),
            )
        )
    return [np.concatenate(parts) for parts in zip(*columns, strict=True)]


def places(documents):
    return list(zip(documents["shard"].to_pylist(), documents["row"].to_pylist(), strict=True))


def test_passed_over_is_what_helps_more_than_the_worst_selected_of_its_cluster(tmp_path):
    arguments = synthetic_run(tmp_path)
    influence, cluster, kept, _, place = whole(arguments)
    expected = [
        tuple(place[i])
        for i in np.flatnonzero(~kept)
        if influence[i] < 0 and (influence[i] < influence[kept & (cluster == cluster[i])]).any()
    ]
    found = surveyed(arguments)
    assert len(expected) > 5
    assert sorted(places(found.passed_over)) == sorted(expected)
    assert found.passed_over_C.sum() == len(expected)


def test_the_extremes_are_those_of_the_pool_and_the_sample_is_one_of_any_number_of_shards(tmp_path):
    arguments = synthetic_run(tmp_path)
    influence, *_, place = whole(arguments)
    found = surveyed(arguments, map_points=50)
    order = np.argsort(influence)
    assert places(found.helpful) == [tuple(place[i]) for i in order[:6]]
    assert places(found.harmful) == [tuple(place[i]) for i in order[::-1][:6]]
    more = surveyed(arguments, map_points=100)
    assert more.sample["doc_id"].to_pylist()[:50] == found.sample["doc_id"].to_pylist()


def test_the_nearest_selected_document_is_that_of_brute_force_and_never_itself(tmp_path):
    arguments = synthetic_run(tmp_path)
    _, cluster, kept, emb, place = whole(arguments)
    found = surveyed(arguments)
    asked = found.sample.slice(0, 60)
    emb_PD = neighbours.embeddings_of(arguments["score"], asked)
    nearest = neighbours.nearest_selected(
        arguments["score"], arguments["cluster"], found.kept_SN, asked, emb_PD
    )
    at = {tuple(p): i for i, p in enumerate(place)}
    for number, document in enumerate(places(asked)):
        me = at[document]
        assert np.array_equal(emb_PD[number], emb[me])
        others = np.flatnonzero(kept & (cluster == cluster[me]) & (np.arange(len(kept)) != me))
        cosine = emb[others].astype(float) @ emb[me].astype(float)
        assert nearest.cosine_P[number] == pytest.approx(cosine.max())
        expected = tuple(place[others[cosine.argmax()]])
        assert (nearest.shard_P[number], nearest.row_P[number]) == expected


def test_typical_documents_are_those_nearest_to_the_centroid(tmp_path):
    arguments = synthetic_run(tmp_path)
    _, cluster, _, emb, place = whole(arguments)
    found = surveyed(arguments)
    centroids = np.load(arguments["centroids"])
    near = neighbours.typical(
        arguments["score"], arguments["cluster"], centroids, [1, 4], found.shown_SN, 3
    )
    for c in (1, 4):
        members = np.flatnonzero(cluster == c)
        best = members[np.argsort(-(emb[members] @ centroids[c]))[:3]]
        assert near[c] == [tuple(place[i]) for i in best]
    taken = documents_at(arguments["score"], arguments["cluster"], found.kept_SN, near[4] + near[1])
    assert taken["cluster"].to_pylist() == [4] * 3 + [1] * 3
    assert places(taken) == near[4] + near[1]


def test_texts_are_read_from_no_more_files_than_the_bound_allows(tmp_path):
    files = [PoolFile(str(tmp_path / f"{n}.jsonl"), f"{n}.jsonl") for n in range(6)]
    for file in files[:5]:  # the last is gone
        Path(file.path).write_text("x" * 100)
    assert {f.name for f in texts.readable(files, 1e9)} == {f.name for f in files[:5]}
    assert len(texts.readable(files, 250)) == 2
    assert texts.readable(files, 0) == []


def test_a_page_without_texts_says_so_and_without_pool_files_still_renders(tmp_path):
    arguments = synthetic_run(tmp_path)
    page = report(arguments | {"settings": settings(texts_gigabytes=0)})
    assert "I am &lt;" not in page.text and "Its text was not read" in page.text
    for path in arguments["pool"]:
        path.unlink()
    assert "Its text was not read" in report(arguments).text


def test_a_pool_file_that_changed_since_it_was_scored_is_refused(tmp_path):
    arguments = synthetic_run(tmp_path)
    for path in arguments["pool"]:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(row) + "\n" for row in reversed(rows)))
    with pytest.raises(UserError, match="as when it was scored"):
        report(arguments)


def test_documents_are_shown_with_their_text_and_why(tmp_path):
    arguments = synthetic_run(tmp_path)
    found = surveyed(arguments)
    text = report(arguments).text
    for name in found.helpful["doc_id"].to_pylist():
        card = re.search(
            rf'<article class="document">\s*<p class="facts"><code>{name}<.*?</article>',
            text,
            re.DOTALL,
        )
        assert card is not None and f"I am &lt;{name}&gt;" in card[0]
        assert "Predicted influence −" in card[0]


def test_words_tell_a_cluster_from_the_others():
    said = ["the sea and a ship", "the ship of the sea", "the bread", "the dough and the bread"] * 5
    said += ["the other thing"] * 80
    clusters = [0, 0, 1, 1] * 5 + [2] * 80
    found = texts.telling_words(said, clusters, 2)
    assert set(found[0]) == {"sea", "ship"} and found[1][0] == "bread"
    assert texts.telling_words(said[:4], clusters[:4]) == {}  # of two documents nothing is told


def test_principal_components_of_points_in_a_plane_are_the_plane():
    random = np.random.default_rng(0)
    plane = random.normal(size=(50, 2)) * [3, 1]
    axes = np.linalg.qr(random.normal(size=(7, 2)))[0]
    place, share = atlas.principal(plane @ axes.T + 5)
    assert share == pytest.approx(1.0)
    distances = [np.linalg.norm(p[:, None] - p[None], axis=-1) for p in (plane, place)]
    assert np.allclose(*distances)


@pytest.mark.parametrize(
    ("source", "counted"),
    [("https://a.org/b?c", "a.org"), ("news", "news"), ("", ""), ("x://", "x://")],
)
def test_web_addresses_count_by_their_host(source, counted):
    assert source_name(source) == counted


def test_figures_are_files_of_their_own_too(tmp_path):
    arguments = synthetic_run(tmp_path, sources=0)
    report(arguments)
    drawn = {path.stem: path.read_text() for path in arguments["figures"]}
    assert all(text.startswith("<svg xmlns=") for text in drawn.values())
    assert "nothing to draw" in drawn["sources"] and "nothing to draw" not in drawn["map"]


def test_columns_without_an_id_are_read_by_file_and_row(tmp_path):
    arguments = synthetic_run(tmp_path)
    files = [PoolFile(str(p), p.name) for p in arguments["pool"]]
    sample = surveyed(arguments).sample.slice(0, 5)
    places = zip(*(sample[c].to_pylist() for c in ("source_file", "source_row")), strict=True)
    named = sample.set_column(0, "doc_id", [[f"{file}#{row}" for file, row in places]])
    columns = PoolColumns(text="text", id=None, source=None)
    assert len(texts.read_texts(files, columns, named)) == 5


def by_meaning(folder, arguments, selector):
    """The same run where group_mates selected within clusters of other embeddings, a document each
    in the cluster of its number modulo 4."""
    random = np.random.default_rng(5)
    centre_KD = np.eye(5)[:4].astype(np.float32)
    arguments["semantic_centroids"] = [folder / "cluster/semantic/centroids.npy"]
    arguments["semantic_centroids"][0].parent.mkdir()
    np.save(arguments["semantic_centroids"][0], centre_KD)
    arguments |= {"semantic": [], "semantic_cluster": []}
    for path in arguments["score"]:
        ids = read_table(path, "score", ["doc_id"])["doc_id"].to_pylist()
        cluster = np.arange(len(ids)) % 4
        emb = centre_KD[cluster] + 0.3 * random.normal(size=(len(ids), 5))
        emb = (emb / np.linalg.norm(emb, axis=1)[:, None]).astype(np.float32)
        arguments["semantic"].append(folder / "score/semantic" / path.name)
        columns = {"doc_id": ids, "embedding": emb}
        write_table(arguments["semantic"][-1], "semantic", MADE, columns, 5)
        arguments["semantic_cluster"].append(folder / "cluster/semantic" / path.name)
        columns = {"doc_id": ids, "cluster": cluster}
        write_table(arguments["semantic_cluster"][-1], "cluster", MADE, columns)
        chosen = folder / "select/group_mates" / path.name
        table = read_table(chosen, "select")
        place = {doc_id: i for i, doc_id in enumerate(ids)}
        theirs = cluster[[place[i] for i in table["doc_id"].to_pylist()]]
        columns = {name: table[name] for name in table.column_names} | {"cluster": theirs}
        write_table(chosen, "select", MADE, columns)
    clusters = {"group_mates": "semantic", "random": "influence"}
    chosen = {"group_mates": selector, "random": "random"}
    charged = {"group_mates": ["semantic"] if selector == "semdedup" else []}
    changed = {"clusters": clusters, "selectors": chosen, "charged": charged}
    arguments["settings"] = settings().model_copy(update=changed)


@pytest.mark.parametrize("selector", ["group_mates", "semdedup"])
def test_a_selection_within_semantic_clusters_is_shown_in_them(tmp_path, selector, monkeypatch):
    arguments = synthetic_run(tmp_path)
    by_meaning(tmp_path, arguments, selector)
    looked = {}
    examine = examples.examine

    def watched(pool, *rest):
        found = examine(pool, *rest)
        looked.update(pool=pool, survey=found[0], page=found[1])
        return found

    monkeypatch.setattr(examples, "examine", watched)
    text = report(arguments).text
    asked = dict(arguments, cluster=arguments["semantic_cluster"])
    influence, cluster, kept, _, place = whole(asked)
    expected = [
        tuple(place[i])
        for i in np.flatnonzero(~kept)
        if influence[i] < 0 and (influence[i] < influence[kept & (cluster == cluster[i])]).any()
    ]
    assert sorted(places(looked["survey"].passed_over)) == sorted(expected)
    assert "The pool has 4 clusters by meaning" in text.replace("\n", " ")
    by = arguments["semantic"] if selector == "semdedup" else arguments["score"]
    assert ("two principal components of the semantic" in text.replace("\n", " ")) == (
        selector == "semdedup"
    )
    emb = np.concatenate([embedded(p, embedded_as(p)) for p in by])
    ids = [i for p in by for i in read_table(p, embedded_as(p))["doc_id"].to_pylist()]
    for shown in looked["page"]["helpful"]:
        me = ids.index(shown["doc_id"])
        others = np.flatnonzero(kept & (cluster == cluster[me]) & (np.arange(len(ids)) != me))
        cosine = emb[others].astype(float) @ emb[me].astype(float)
        assert shown["cosine"] == pytest.approx(cosine.max())
    meaning = np.concatenate([embedded(p, "semantic") for p in arguments["semantic"]])
    for card in looked["page"]["cards"]:
        members = np.flatnonzero(cluster == card["cluster"])
        best = members[meaning[members, card["cluster"]].argmax()]
        assert card["typical"][0]["doc_id"] == ids[best]
