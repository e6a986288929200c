import pytest

from benchmarks.shards import WHOLE, Part, Unit, split_units, units_of
from matching.errors import InputError


def test_a_part_is_written_as_index_and_count() -> None:
    assert Part.parse("0/1") == WHOLE and Part.parse("2/3") == Part(index=2, count=3)
    assert WHOLE.label == "" and Part(index=1, count=4).label == ".1-of-4"
    for text in ("3/3", "-1/3", "1", "a/b", "0/0", ""):
        with pytest.raises(InputError, match="--shard takes I/N with 0 <= I < N"):
            Part.parse(text)


@pytest.mark.parametrize("num_scenes", [1, 2, 3, 7])
@pytest.mark.parametrize("num_shards", [1, 2, 3, 5])
@pytest.mark.parametrize("num_workers", [1, 2, 4, 9])
def test_shards_and_workers_do_every_query_once(
    num_scenes: int, num_shards: int, num_workers: int
) -> None:
    queries = {f"s{i}": [f"s{i}/{k}" for k in range(5 * i + 1)] for i in range(num_scenes)}
    done: list[str] = []
    for index in range(num_shards):
        units = units_of(list(queries), Part(index=index, count=num_shards))
        for unit in split_units(units, num_workers):
            done += unit.part.of(queries[unit.scene])
    assert sorted(done) == sorted(name for names in queries.values() for name in names)


def test_scenes_stay_whole_while_there_are_enough_of_them() -> None:
    assert units_of(["a", "b", "c"], Part(index=1, count=2)) == [Unit(scene="b")]
    assert units_of(["a"], Part(index=1, count=2)) == [Unit(scene="a", part=Part(index=1, count=2))]
    assert split_units([Unit(scene="a"), Unit(scene="b")], 2) == [Unit(scene="a"), Unit(scene="b")]
