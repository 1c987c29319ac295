"""Lists for all users in one file: the same as one by one, whole or not at all."""

from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from client.recommend.batch import recommend_all
from client.recommend.query import Filter, Query
from client.recommend.recommender import Recommender
from shared.errors import ConfigError, RunError

QUERIES = {
    "hybrid": Query(k=4),
    "need": Query(k=3, need="robots in space"),
    "content": Query(k=5, mode="content"),
    "varied": Query(k=4, diversity=0.6, popularity_damping=0.5),
    "filtered": Query(k=99, filters=(Filter("genres", ("romance",)),)),
}


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_every_user_has_the_list_that_they_have_alone(
    recommender: Recommender, query: Query, tmp_path: Path
) -> None:
    told: list[tuple[int, int]] = []
    out = tmp_path / "recs.parquet"
    lines = recommend_all(recommender, query, out, lambda *now: told.append(now))
    table = pyarrow.parquet.read_table(out)
    assert len(table) == lines
    assert told[-1] == (7, 7)
    rows = table.to_pylist()
    for user in recommender.histories.user_ids:
        own = [row for row in rows if row["user_id"] == user]
        alone = recommender.recommend(user, query)
        assert [row["item_id"] for row in own] == [line.item_id for line in alone]
        assert [row["rank"] for row in own] == list(range(1, len(own) + 1))
        scores = np.array([line.score for line in alone])
        assert np.array([row["score"] for row in own]) == pytest.approx(scores, abs=1e-3)


def test_only_the_owner_may_read_the_lists(recommender: Recommender, tmp_path: Path) -> None:
    recommend_all(recommender, Query(k=1), tmp_path / "recs.parquet")
    assert (tmp_path / "recs.parquet").stat().st_mode & 0o077 == 0


def test_a_refused_query_leaves_the_old_file(recommender: Recommender, tmp_path: Path) -> None:
    out = tmp_path / "recs.parquet"
    out.write_text("old")
    with pytest.raises(ConfigError, match="no lists for all"):
        recommend_all(recommender, Query(mode="generative"), out)
    assert out.read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


def test_a_file_that_cannot_be_written_is_named(recommender: Recommender, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        recommend_all(recommender, Query(), tmp_path / "file" / "recs.parquet")
