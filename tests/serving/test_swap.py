"""New deliveries are taken up while requests are answered; bad ones change nothing."""

import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from client.data.store import write_store
from tests.serving.shop import (
    Shop,
    catalogue,
    histories,
    metric,
    running,
    until,
)

ASKED = "/v1/users/user-0/recommendations?k=3&exclude_seen=false"
REFUSED = "tacit_refused_deliveries_total"


@pytest.fixture
def served(shop: Shop) -> Iterator[tuple[Shop, httpx.Client]]:
    """A shop of this test's own, and its service."""
    with running(shop.directory) as address, httpx.Client(base_url=address, timeout=60.0) as client:
        yield shop, client


def first_item(client: httpx.Client) -> str:
    return str(client.get(ASKED).json()["recommendations"][0]["item_id"])


def test_no_request_fails_while_deliveries_are_replaced(served: tuple[Shop, httpx.Client]) -> None:
    shop, client = served
    statuses: list[int] = []
    firsts: set[str] = set()
    end = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=client.base_url, timeout=60.0) as own:
            while not end.is_set():
                answer = own.get(ASKED)
                statuses.append(answer.status_code)
                if answer.status_code == 200:
                    firsts.add(answer.json()["recommendations"][0]["item_id"])

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    favourites = range(10, 22)
    try:
        for favourite in favourites:
            shop.deliver(favourite)
            until(lambda f=favourite: first_item(client) == f"film-{f}", "the new delivery")
    finally:
        end.set()
        for thread in threads:
            thread.join(60.0)
    assert set(statuses) == {200}
    assert len(statuses) > 100
    assert {f"film-{favourite}" for favourite in favourites} <= firsts
    assert metric(client, "tacit_swaps_total") == 1 + len(favourites)
    assert metric(client, REFUSED) == 0.0


def nan(shop: Shop) -> None:
    arrays = shop.adapter_arrays()
    # The other factor is frozen: every house has its own copy.
    trained = next(name for name in arrays if "lora_B" in name)
    arrays[trained].flat[0] = np.nan
    shop.deliver_adapter(arrays)


def overflowing(shop: Shop) -> None:
    shop.deliver_adapter({k: np.full_like(v, 3e38) for k, v in shop.adapter_arrays().items()})


def other_shape(shop: Shop) -> None:
    shop.deliver_adapter({k: v[:-1] for k, v in shop.adapter_arrays().items()})


def other_rank(shop: Shop) -> None:
    wider = {k: np.repeat(v, 2, axis=v.ndim - 1) for k, v in shop.adapter_arrays().items()}
    shop.deliver_adapter(wider)


def truncated(shop: Shop) -> None:
    content = shop.adapter.read_bytes()
    replace(shop.adapter, content[: len(content) // 2])


def empty(shop: Shop) -> None:
    replace(shop.adapter, b"")


def pickled(shop: Shop) -> None:
    replace(shop.adapter, pickle.dumps({"weights": Bomb()}))


def pickle_alone(shop: Shop) -> None:
    shop.adapter.with_name("adapter_model.bin").write_bytes(pickle.dumps(Bomb()))
    shop.adapter.unlink()


def bad_statistics(shop: Shop) -> None:
    replace(shop.directory / "delivered" / "statistics.safetensors", b"no such thing")


def bad_settings(shop: Shop) -> None:
    replace(shop.directory / "delivered" / "settings.json", b'{"model": {"rank": "all of it"}}')


def bad_store(shop: Shop) -> None:
    replace(shop.directory / "histories.duckdb", b"no store")


EXPLODED = Path("/nonexistent")


class Bomb:
    """Whoever unpickles it writes a file."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (open, (str(Bomb.path), "w"))

    path = EXPLODED


def replace(path: Path, content: bytes) -> None:
    temporary = path.with_name("new")
    temporary.write_bytes(content)
    temporary.replace(path)


BAD = (
    nan,
    overflowing,
    other_shape,
    other_rank,
    truncated,
    empty,
    pickled,
    pickle_alone,
    bad_statistics,
    bad_settings,
    bad_store,
)


@pytest.mark.parametrize("spoil", BAD, ids=lambda one: one.__name__)
def test_a_bad_delivery_is_refused_and_the_old_one_stays(
    served: tuple[Shop, httpx.Client],
    spoil: Callable[[Shop], None],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    shop, client = served
    monkeypatch.setattr(Bomb, "path", tmp_path / "exploded")
    before = client.get(ASKED).json()
    spoil(shop)
    until(lambda: metric(client, REFUSED) == 1.0, "the refusal")
    assert client.get(ASKED).json() == before
    assert client.get("/healthz").json()["status"] == "ok"
    assert "is refused" in caplog.text
    assert "the one before stays" in caplog.text
    assert not (tmp_path / "exploded").exists()
    assert metric(client, "tacit_swaps_total") == 1.0


def test_after_a_bad_delivery_a_good_one_is_taken_up(served: tuple[Shop, httpx.Client]) -> None:
    shop, client = served
    good = shop.adapter_arrays()
    nan(shop)
    until(lambda: metric(client, REFUSED) == 1.0, "the refusal")
    shop.deliver_adapter(good)
    shop.deliver(33)
    until(lambda: first_item(client) == "film-33", "the good delivery")


def test_the_first_delivery_is_taken_up_without_a_new_start(shop: Shop, first_shop: Shop) -> None:
    delivered = {
        path.relative_to(first_shop.directory): path.read_bytes()
        for path in (first_shop.directory / "delivered").rglob("*")
        if path.is_file()
    }
    shop.forget_delivery()
    with running(shop.directory) as address, httpx.Client(base_url=address) as client:
        assert client.get(ASKED).status_code == 503
        for name, content in delivered.items():
            (shop.directory / name).parent.mkdir(parents=True, exist_ok=True)
            (shop.directory / name).write_bytes(content)
        until(lambda: client.get(ASKED).status_code == 200, "the first delivery")
        assert metric(client, "tacit_ready") == 1.0


def test_a_bad_first_delivery_leaves_a_service_that_says_so(shop: Shop) -> None:
    nan(shop)
    with running(shop.directory) as address, httpx.Client(base_url=address) as client:
        answer = client.get(ASKED)
        assert answer.status_code == 503
        assert "cannot be used" in answer.json()["detail"]
        # Why names files of this machine, and stays in the log.
        assert str(shop.directory) not in answer.text
        assert client.get("/v1/federation").json()["delivered"]["in_use"] is None


def test_refreshed_data_is_taken_up(served: tuple[Shop, httpx.Client]) -> None:
    shop, client = served
    whole = histories()
    more = whole.select([*range(len(whole)), 0])
    named = type(more)(
        (*whole.user_ids, "newcomer"), more.offsets, more.items, more.times, more.ratings
    )
    assert client.get("/v1/users/newcomer").status_code == 404
    write_store(shop.directory / "histories.duckdb", "Shop", catalogue(), named)
    until(lambda: client.get("/v1/users/newcomer").status_code == 200, "the refreshed data")
