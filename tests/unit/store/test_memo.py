"""The memo on disk and the cache in memory."""

from __future__ import annotations

import os
import pickle
import sqlite3
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diskcache
import pytest

from analysis.store.memo import BytesDisk, LruCache, Memo, seal, unseal


def test_the_least_recently_used_value_is_evicted_first() -> None:
    cache: LruCache[bytes] = LruCache(10, len)
    cache.put("a", b"1234")
    cache.put("b", b"1234")
    assert cache.get("a") == b"1234"
    cache.put("c", b"1234")
    assert cache.get("b") is None
    assert cache.get("a") == cache.get("c") == b"1234"
    assert cache.used == 8


def test_a_replaced_value_is_counted_once() -> None:
    cache: LruCache[bytes] = LruCache(10, len)
    cache.put("a", b"1234")
    cache.put("a", b"12")
    assert (cache.used, len(cache)) == (2, 1)


def test_one_value_over_the_limit_is_kept_unless_strict() -> None:
    lax: LruCache[bytes] = LruCache(1, len)
    lax.put("a", b"x")
    lax.put("b", b"12345")
    assert (lax.get("a"), lax.get("b")) == (None, b"12345")
    strict: LruCache[bytes] = LruCache(1, len, strict=True)
    strict.put("a", b"x")
    strict.put("b", b"12345")
    assert (strict.get("a"), strict.get("b")) == (b"x", None)


def test_pop_and_clear_release_values() -> None:
    cache: LruCache[bytes] = LruCache(10, len)
    cache.put("a", b"1")
    cache.put("b", b"2")
    cache.pop("a")
    cache.pop("nothing")
    assert (cache.get("a"), cache.used) == (None, 1)
    cache.clear()
    assert (len(cache), cache.used) == (0, 0)


KEY = "0123456789abcdef"
LARGE = 100_000  # larger values go to a file
LIMIT = 50 << 20


def fresh(folder: Path, **options: Any) -> Memo:
    return Memo(folder, LIMIT, **options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "memo"


def written(folder: Path, data: bytes) -> None:
    memo = fresh(folder)
    memo.put(KEY, data)
    memo.close()


def read(folder: Path, key: str = KEY) -> tuple[bytes | None, str]:
    memo = fresh(folder)
    found = memo.get(key)
    problem = memo.problem
    memo.close()
    return found, problem


class Planted:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("size", [0, 10, LARGE])
def test_bytes_survive_a_restart(folder: Path, size: int) -> None:
    data = os.urandom(size)
    written(folder, data)
    assert read(folder) == (data, "")
    assert read(folder, "another key") == (None, "")


def test_the_folder_is_private(folder: Path) -> None:
    folder.mkdir(mode=0o755)
    written(folder, b"x")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_symbolic_link_is_not_used_as_folder(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "memo").symlink_to(tmp_path / "real")
    memo = fresh(tmp_path / "memo")
    assert "can't be used" in memo.problem
    memo.close()
    assert not list((tmp_path / "real").iterdir())


def test_any_flipped_byte_of_an_entry_is_a_miss() -> None:
    sealed = seal(KEY, b"a result")
    assert unseal(KEY, sealed) == b"a result"
    assert unseal(KEY + "0", sealed) is None
    for position in range(len(sealed)):
        damaged = bytearray(sealed)
        damaged[position] ^= 0x20
        assert unseal(KEY, bytes(damaged)) is None
    for length in range(len(sealed)):
        assert unseal(KEY, sealed[:length]) is None


@pytest.mark.parametrize("position", [0, 3, 4, 19, 20, LARGE])
def test_a_damaged_file_is_a_miss_and_is_rewritten(folder: Path, position: int) -> None:
    written(folder, b"x" * LARGE)
    (file,) = folder.rglob("*.val")
    data = bytearray(file.read_bytes())
    data[position] ^= 1
    file.write_bytes(data)
    assert read(folder) == (None, "")
    assert not list(folder.rglob("*.val"))
    written(folder, b"again")
    assert read(folder) == (b"again", "")


def test_each_byte_of_a_small_entry_flipped_in_the_database_is_a_miss(folder: Path) -> None:
    sealed = seal(KEY, b"tiny")
    for position in range(len(sealed)):
        written(folder, b"tiny")
        damaged = bytearray(sealed)
        damaged[position] ^= 1
        edit(folder, "UPDATE Cache SET value = ?", (sqlite3.Binary(bytes(damaged)),))
        assert read(folder) == (None, "")


def test_a_missing_or_truncated_file_is_a_miss(folder: Path) -> None:
    written(folder, b"x" * LARGE)
    (file,) = folder.rglob("*.val")
    file.write_bytes(file.read_bytes()[:50])
    assert read(folder)[0] is None
    written(folder, b"x" * LARGE)
    (file,) = folder.rglob("*.val")
    file.unlink()
    assert read(folder)[0] is None


def edit(folder: Path, statement: str, values: tuple[Any, ...]) -> None:
    connection = sqlite3.connect(folder / "cache.db")
    with connection:
        connection.execute(statement, values)
    connection.close()


def test_a_planted_pickle_in_the_database_is_not_run(folder: Path, tmp_path: Path) -> None:
    written(folder, b"x")
    bomb = pickle.dumps(Planted(tmp_path / "boom"))
    edit(folder, "UPDATE Cache SET mode = ?, value = ?", (diskcache.core.MODE_PICKLE, bomb))
    assert read(folder) == (None, "")
    assert not (tmp_path / "boom").exists()


def test_a_planted_pickle_in_a_file_is_not_run(folder: Path, tmp_path: Path) -> None:
    written(folder, b"x" * LARGE)
    (file,) = folder.rglob("*.val")
    file.write_bytes(pickle.dumps(Planted(tmp_path / "boom")))
    edit(folder, "UPDATE Cache SET mode = ?", (diskcache.core.MODE_PICKLE,))
    assert read(folder) == (None, "")
    assert not (tmp_path / "boom").exists()


def test_a_planted_pickled_key_is_not_run(folder: Path, tmp_path: Path) -> None:
    written(folder, b"x")
    bomb = pickle.dumps(Planted(tmp_path / "boom"))
    edit(folder, "UPDATE Cache SET key = ?, raw = 0", (sqlite3.Binary(bomb),))
    memo = fresh(folder)
    assert memo.get(KEY) is None
    assert memo.status().entries == 1
    memo.clear()
    memo.close()
    assert not (tmp_path / "boom").exists()


def test_the_planted_pickle_would_run_in_a_stock_cache(folder: Path, tmp_path: Path) -> None:
    """Check the tests above: without BytesDisk the planted pickle runs."""
    written(folder, b"x")
    bomb = pickle.dumps(Planted(tmp_path / "boom"))
    edit(folder, "UPDATE Cache SET mode = ?, value = ?", (diskcache.core.MODE_PICKLE, bomb))
    with diskcache.Cache(str(folder)) as stock:
        stock.get(KEY)
    assert (tmp_path / "boom").exists()


def test_an_entry_naming_a_file_elsewhere_touches_nothing(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.val"
    outside.write_bytes(seal(KEY, b"not ours"))
    written(folder, b"x" * LARGE)
    edit(folder, "UPDATE Cache SET filename = ?", ("../outside.val",))
    assert read(folder) == (None, "")
    assert outside.exists()


@pytest.mark.parametrize("value", ["text", 1, None, {"a": 1}])
def test_only_bytes_are_stored(folder: Path, value: Any) -> None:
    with diskcache.Cache(str(folder), disk=BytesDisk) as cache, pytest.raises(TypeError):
        cache.set("key", value)
    with diskcache.Cache(str(folder), disk=BytesDisk) as cache, pytest.raises(TypeError):
        cache.set(("a", "tuple"), b"value")


def test_the_memo_stays_under_its_limit_and_keeps_used_entries(folder: Path) -> None:
    limit = 2 << 20
    memo = Memo(folder, limit, memory_limit=0)
    memo.put(KEY, b"k" * LARGE)
    for number in range(60):
        memo.put(f"other {number}", os.urandom(LARGE))
        assert memo.get(KEY) is not None
    memo.flush()
    assert memo.status().bytes_used <= limit + 2 * LARGE
    on_disk = sum(path.stat().st_size for path in folder.rglob("*.val"))
    assert on_disk <= limit
    memo.close()


def test_a_value_of_half_the_limit_is_not_kept_on_disk(folder: Path) -> None:
    memo = Memo(folder, 1 << 20, memory_limit=0)
    memo.put(KEY, b"x" * (1 << 20))
    assert memo.get(KEY) is None
    memo.close()


@pytest.fixture(params=["file in the way", "garbage", "no database", "dangling"])
def broken(request: pytest.FixtureRequest, folder: Path) -> Iterator[Path]:
    if request.param == "file in the way":
        folder.write_text("not a folder")
        yield folder
        return
    folder.mkdir()
    database = folder / "cache.db"
    if request.param == "garbage":
        database.write_bytes(os.urandom(8192))
    elif request.param == "no database":
        database.mkdir()
    else:
        database.symlink_to(folder / "nowhere" / "cache.db")
    yield folder


def test_without_a_usable_folder_the_memo_works_in_memory(broken: Path) -> None:
    memo = fresh(broken)
    memo.put(KEY, b"x")
    assert memo.get(KEY) == b"x"
    assert memo.get("other") is None
    assert str(broken) in memo.problem
    assert "free some space" in memo.problem.lower()
    assert memo.status().problem == memo.problem
    memo.remove(KEY)
    memo.clear()
    memo.close()


def test_a_database_that_breaks_later_is_a_miss_and_is_reported(folder: Path) -> None:
    written(folder, b"x" * LARGE)
    size = (folder / "cache.db").stat().st_size
    (folder / "cache.db").write_bytes(os.urandom(size))
    found, problem = read(folder)
    assert found is None
    assert "can't be used" in problem


def test_a_full_disk_loses_nothing_but_the_disk_copy(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_write = BytesDisk._write

    def full(self: Any, path: str, iterator: Any, mode: str, encoding: Any = None) -> int:
        real_write(self, path, iter((b"a part",)), mode, encoding)
        raise OSError(28, "No space left on device")

    memo = fresh(folder)
    with monkeypatch.context() as patch:
        patch.setattr(BytesDisk, "_write", full)
        memo.put(KEY, b"x" * LARGE)
        memo.flush()
        assert memo.get(KEY) == b"x" * LARGE
        assert "No space left on device" in memo.problem
        assert not list(folder.rglob("*.val"))
    memo.put("later", b"y" * LARGE)
    memo.flush()
    assert memo.problem == ""
    memo.close()
    assert read(folder, "later")[0] == b"y" * LARGE


def test_hits_and_misses_are_counted(folder: Path) -> None:
    memo = fresh(folder)
    memo.put(KEY, b"x")
    memo.get(KEY)
    memo.get("nothing")
    status = memo.status()
    assert (status.hits, status.misses, status.entries) == (1, 1, 1)
    memo.clear()
    assert memo.status().entries == 0
    memo.close()


def test_memory_only(tmp_path: Path) -> None:
    memo = Memo(None, LIMIT)
    memo.put(KEY, b"x")
    assert (memo.get(KEY), memo.problem) == (b"x", "")
    memo.close()
    assert not list(tmp_path.iterdir())
