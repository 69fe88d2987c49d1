"""Which files a pool is, and the names that travel with their documents."""

import pytest

from groupmates.errors import UserError
from groupmates.pool.listing import common_root, deal, expand, list_files, named, suffix_of


@pytest.fixture
def tree(tmp_path):
    for name in ("web/b.jsonl", "web/a.jsonl", "books/part-1.parquet", "books/part-10.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def refusal(action, *arguments) -> UserError:
    with pytest.raises(UserError) as caught:
        action(*arguments)
    return caught.value


def test_a_range_stands_for_files_that_need_not_exist():
    assert expand(["x/part-{0008..0011}.jsonl.zst"]) == [
        f"x/part-{n}.jsonl.zst" for n in ("0008", "0009", "0010", "0011")
    ]
    assert expand(["p{9..11}.jsonl"]) == ["p9.jsonl", "p10.jsonl", "p11.jsonl"]
    assert expand(["p{3..3}.jsonl"]) == ["p3.jsonl"]


def test_a_glob_is_sorted_and_patterns_keep_their_order(tree):
    found = expand([f"{tree}/web/*.jsonl", f"{tree}/books/*", "literal.jsonl"])
    names = ["web/a.jsonl", "web/b.jsonl", "books/part-1.parquet", "books/part-10.parquet"]
    assert found == [*(f"{tree}/{name}" for name in names), "literal.jsonl"]


def test_two_stars_reach_into_subfolders(tree):
    assert len(expand([f"{tree}/**/*.parquet"])) == 2


def test_a_glob_that_matches_nothing_says_from_where_it_was_read(tree, monkeypatch):
    monkeypatch.chdir(tree)
    error = refusal(expand, ["web/*.zst"])
    assert "'web/*.zst'" in error.found
    assert str(tree) in error.where


@pytest.mark.parametrize("second", ["part-2.jsonl", "part-{2..5}.jsonl", "./part-2.jsonl"])
def test_a_file_named_twice_is_refused(second):
    error = refusal(expand, ["part-{0..3}.jsonl", second])
    assert "part-2.jsonl" in error.found
    assert "overlap" in error.todo


def test_a_range_that_runs_backwards_is_refused():
    assert "part-{3..1}.jsonl" in refusal(expand, ["part-{3..1}.jsonl"]).found


def test_a_name_is_the_path_below_the_folder_that_all_files_share(tree):
    names = [f.name for f in list_files([f"{tree}/web/*", f"{tree}/books/*"])]
    assert names == ["web/a.jsonl", "web/b.jsonl", "books/part-1.parquet", "books/part-10.parquet"]
    assert [f.name for f in list_files([f"{tree}/web/*"])] == ["a.jsonl", "b.jsonl"]
    assert [f.name for f in list_files([f"{tree}/web/a.jsonl"])] == ["a.jsonl"]


def test_folders_that_only_begin_alike_share_no_more_than_their_parent():
    assert common_root(["/pool/web-1/a.jsonl", "/pool/web-2/a.jsonl"]) == "/pool"


def test_names_stay_when_the_pool_is_moved_or_written_relatively(tree, tmp_path, monkeypatch):
    before = [f.name for f in list_files([f"{tree}/*/*"])]
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for folder in ("web", "books"):
        (tree / folder).rename(moved / folder)
    assert [f.name for f in list_files([f"{moved}/*/*"])] == before
    monkeypatch.chdir(moved)
    assert [f.name for f in list_files(["*/*"])] == before
    assert [named(f.path, moved).name for f in list_files(["*/*"])] == before


@pytest.mark.parametrize(
    ("path", "suffix"),
    [("a.jsonl", ".jsonl"), ("a.v2.jsonl.zst", ".jsonl.zst"), ("a.parquet", ".parquet")],
)
def test_the_suffix_decides_how_a_file_is_read(path, suffix):
    assert suffix_of(path) == list_files([path])[0].suffix == suffix


@pytest.mark.parametrize("path", ["a.json", "a.jsonl.bz2", "zst", "a.zst"])
def test_another_kind_of_file_is_refused_by_name(path):
    error = refusal(list_files, [path])
    assert repr(path) in error.found
    assert ".jsonl.zst" in error.expected


def test_files_are_dealt_in_pool_order_and_shard_names_sort_in_it():
    files = list_files([f"p{n}.jsonl" for n in range(25)])
    dealt = deal(files, 2)
    assert list(dealt) == sorted(dealt)
    assert list(dealt)[:2] == ["00000", "00001"]
    assert [len(part) for part in dealt.values()] == [2] * 12 + [1]
    assert [f for part in dealt.values() for f in part] == files


def test_a_brace_in_a_file_name_is_refused_with_the_setting_that_names_it():
    with pytest.raises(UserError, match=r"reference\.paths") as caught:
        expand(["a{x}.jsonl"], "reference.paths")
    assert "a{x}.jsonl" in caught.value.found
