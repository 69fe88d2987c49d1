"""Which files a pool is, and the names that travel with their documents."""

import os
from pathlib import Path

import pytest

from groupmates.errors import UserError
from groupmates.pool.listing import compact, deal, expand, list_files, located


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
    assert refusal(expand, ["part-{3..1}.jsonl"], "reference.paths").where == "reference.paths"


def names(patterns: list[str]) -> list[str]:
    return [file.name for file in list_files(patterns)]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("{tree}/web/*", ["web/a.jsonl", "web/b.jsonl"]),
        ("{tree}/web/a.jsonl", ["web/a.jsonl"]),
        ("{tree}/*/a.jsonl", ["web/a.jsonl"]),
        ("{tree}/{0..1}/x-{2..3}.jsonl", None),
        ("/no/where/part-{08..09}.jsonl", ["where/part-08.jsonl", "where/part-09.jsonl"]),
        ("s3://bucket/dump/web/a.jsonl", ["bucket/dump/web/a.jsonl"]),
        ("s3://bucket/a.jsonl", ["bucket/a.jsonl"]),
        ("file:///data/web/a.jsonl", ["data/web/a.jsonl"]),
    ],
)
def test_a_name_begins_with_the_first_folder_that_stands_for_several(tree, pattern, expected):
    if expected is None:
        assert names([pattern.replace("{tree}", str(tree)).replace("/{0..1}", "/web")]) == [
            "web/x-2.jsonl",
            "web/x-3.jsonl",
        ]
        return
    assert names([pattern.replace("{tree}", str(tree))]) == expected


def test_a_file_keeps_its_name_whatever_others_there_are(tree):
    (tree / "next").mkdir()
    (tree / "next/a.jsonl").touch()
    web = names([f"{tree}/web/*"])
    assert names([f"{tree}/web/*", f"{tree}/next/*", "/elsewhere/x.jsonl"])[:2] == web


def test_a_file_keeps_its_name_where_the_pool_is_moved_or_named_relatively(
    tree, tmp_path, monkeypatch
):
    before = names([f"{tree}/*/*"])
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for folder in ("web", "books"):
        (tree / folder).rename(moved / folder)
    assert names([f"{moved}/*/*"]) == before
    monkeypatch.chdir(moved)
    assert names(["*/*"]) == before
    assert names(["web/*", "./books/*"]) == [*before[2:], *before[:2]]


@pytest.mark.parametrize(
    "pattern",
    ["web/*", "*/*", "./web/a.jsonl", "{tree}/**/*.jsonl", "x-{1..3}.jsonl", "s3://b/a/b/c.jsonl"],
)
def test_what_a_command_line_names_is_the_same_file(tree, pattern, monkeypatch):
    monkeypatch.chdir(tree)
    files = list_files([pattern.replace("{tree}", str(tree))])
    found = located(compact([file.marked for file in files]))
    assert [(Path(f.path), f.name) for f in found] == [(Path(f.path), f.name) for f in files]


def test_two_files_of_one_name_are_refused_with_what_tells_them_apart(tree):
    for name in ("de/web/a.jsonl", "en/web/a.jsonl"):
        (tree / name).parent.mkdir(parents=True)
        (tree / name).touch()
    error = refusal(list_files, [f"{tree}/de/web/*", f"{tree}/en/web/*"])
    assert "'web/a.jsonl'" in error.found
    assert "one glob" in error.todo
    assert names([f"{tree}/*/web/*"]) == ["de/web/a.jsonl", "en/web/a.jsonl"]


@pytest.mark.parametrize(
    "urls",
    [
        ["hf://datasets/a/x/data/train.parquet", "hf://datasets/b/y/data/train.parquet"],
        ["s3://one/data/x-{0..1}.jsonl", "s3://other/data/x-{0..1}.jsonl"],
    ],
)
def test_urls_are_told_apart_by_repository_or_bucket_whatever_others_there_are(urls):
    together = names(urls)
    assert len(set(together)) == len(together)
    assert together == [name for url in urls for name in names([url])]


def test_a_name_that_is_no_utf8_is_refused(tree):
    name = b"\xff.jsonl"
    (tree / "web" / os.fsdecode(name)).touch()
    assert "xff" in refusal(list_files, [f"{tree}/web/*"]).found


@pytest.mark.parametrize("name", ["web/page[1].jsonl", "web/a*.jsonl", "web[v2]/b.jsonl"])
def test_a_path_that_exists_is_that_file_whatever_a_pattern_would_mean(tree, name):
    for also in ("web/page1.jsonl", "web/ab.jsonl", "webv/b.jsonl", name):
        (tree / also).parent.mkdir(exist_ok=True)
        (tree / also).touch()
    assert expand([f"{tree}/{name}"]) == [f"{tree}/{name}"]


def test_within_a_folder_that_exists_only_the_rest_is_a_pattern(tree):
    for name in ("dump[1]/a.jsonl", "dump[1]/b.jsonl", "dump1/c.jsonl"):
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).touch()
    found = expand([f"{tree}/dump[1]/*.jsonl"])
    assert found == [f"{tree}/dump[1]/{name}.jsonl" for name in "ab"]


def test_a_glob_with_a_range_is_looked_up_for_each_number(tree):
    for name in ("x0/b.jsonl", "x0/a.jsonl", "x1/a.jsonl", "x2/a.jsonl"):
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).touch()
    assert names([f"{tree}/x{{0..1}}/*.jsonl"]) == ["x0/a.jsonl", "x0/b.jsonl", "x1/a.jsonl"]
    assert "x3/*.jsonl" in refusal(expand, [f"{tree}/x{{2..3}}/*.jsonl"]).found


@pytest.mark.parametrize("name", ["web/a-{00..02}.jsonl", "d{0..1}/a.jsonl"])
def test_a_file_whose_name_looks_like_a_range_is_that_file_and_refused(tree, name):
    (tree / name).parent.mkdir(exist_ok=True)
    (tree / name).touch()
    assert refusal(expand, [f"{tree}/{name}"]).found == repr(f"{tree}/{name}")


def test_digits_of_other_scripts_do_not_count_up():
    names = [f"part-{digit}.jsonl" for digit in "1२3٤"]
    assert compact(names) == names
    assert expand(names) == names


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
