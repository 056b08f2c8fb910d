from __future__ import annotations

from analysis.store.lru_cache import LruCache


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
