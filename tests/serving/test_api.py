"""What every route answers."""

import json
from collections.abc import Iterator
from urllib.parse import quote

import httpx
import pytest

from client.data.store import read_store
from client.recommend.opening import open_delivered
from client.recommend.query import Query
from tests.serving.shop import EVIL, FILMS, SLASHED, USERS, Shop, metric, running, until

Answer = dict[str, object]


def path(user: str, rest: str = "") -> str:
    return f"/v1/users/{quote(user, safe='')}{rest}"


def test_users_are_found_by_a_part_of_the_identifier_the_equal_one_first(
    client: httpx.Client,
) -> None:
    found = client.get("/v1/users", params={"search": "USER-1"}).json()
    assert [line["id"] for line in found["users"]] == ["user-1", *(f"user-1{n}" for n in range(4))]
    assert found["total"] == 5
    assert client.get("/v1/users", params={"search": "nobody"}).json()["users"] == []


def test_without_a_search_the_first_users_are_listed(client: httpx.Client) -> None:
    found = client.get("/v1/users", params={"limit": 3}).json()
    assert [line["id"] for line in found["users"]] == ["user-0", "user-1", "user-2"]
    assert [line["interactions"] for line in found["users"]] == [3, 4, 5]
    assert found["total"] == USERS


def test_a_history_is_told_newest_first_with_times_and_ratings(
    client: httpx.Client, first_shop: Shop
) -> None:
    catalogue, histories = read_store(first_shop.directory / "histories.duckdb")
    found = client.get(path("user-0")).json()
    row = histories.row(0)[::-1]
    assert [line["item_id"] for line in found["history"]] == [catalogue.item_ids[i] for i in row]
    assert [line["time"] for line in found["history"]] == sorted(histories.times[:3], reverse=True)
    # A rating that the data leaves out is none, and not a number that is none.
    assert found["history"][1]["rating"] is None
    assert found["history"][0]["rating"] == float(histories.ratings[2])
    assert client.get(path("user-9"), params={"limit": 4}).json()["interactions"] == 12
    assert len(client.get(path("user-9"), params={"limit": 4}).json()["history"]) == 4


def test_a_list_is_the_recommenders_own(client: httpx.Client, first_shop: Shop) -> None:
    found = client.get(path("user-2", "/recommendations"), params={"k": 7}).json()
    expected = open_delivered(first_shop.directory).recommend("user-2", Query(k=7))
    lines = found["recommendations"]
    assert [line["item_id"] for line in lines] == [one.item_id for one in expected]
    assert [line["score"] for line in lines] == pytest.approx([one.score for one in expected])
    for line in lines:
        assert sum(line["parts"].values()) == pytest.approx(line["score"], abs=1e-6)
    assert found["user"] == "user-2"
    assert found["delivery"]["adapter"] is True


def test_every_field_of_a_wish_reaches_the_recommender(client: httpx.Client) -> None:
    wish = [
        ("k", "60"),
        ("need", "a comedy"),
        ("interest", "horror"),
        ("interest", "romance"),
        ("filter", "genres=Comedy|Drama"),
        ("filter", "year>=1990"),
        ("diversity", "0.5"),
        ("popularity_damping", "1"),
        ("exclude_seen", "false"),
        ("mode", "hybrid"),
    ]
    found = client.get(path("user-2", "/recommendations"), params=wish).json()["recommendations"]
    assert found
    years = [1960 + int(line["item_id"].split("-")[1]) for line in found]
    assert min(years) >= 1990
    assert all("Comedy" in line["text"] or "Drama" in line["text"] for line in found)
    assert all(line["parts"]["popularity"] == 0.0 for line in found)
    assert all("need" in line["parts"] for line in found)


def test_reasons_come_with_a_list_where_they_are_asked_for(client: httpx.Client) -> None:
    asked = {"k": 3, "reasons": True, "need": "a comedy"}
    lines = client.get(path("user-5", "/recommendations"), params=asked).json()["recommendations"]
    assert all(line["explanation"]["sentence"] for line in lines)
    reasons = [one for line in lines for one in line["explanation"]["history"]]
    assert reasons
    assert all(one["drop"] > 0.0 for one in reasons)


def test_an_explanation_is_of_the_item_also_where_its_name_has_a_slash(
    client: httpx.Client,
) -> None:
    found = client.get(path("user-5", f"/explanations/{quote('film/3', safe='')}")).json()
    assert found["item_id"] == "film/3"
    assert found["together"] > 0.0 or not found["history"]


def test_a_user_whose_name_needs_quoting_is_served(client: httpx.Client) -> None:
    assert client.get(path(SLASHED)).json()["id"] == SLASHED
    assert client.get(path(SLASHED, "/recommendations")).json()["user"] == SLASHED
    assert client.get(path(SLASHED, "/interests")).json()["user"] == SLASHED


def test_interests_have_periods_and_themes(client: httpx.Client) -> None:
    found = client.get(path("user-13", "/interests")).json()
    assert len(found["periods"]) == 3
    assert all(len(theme["shares"]) == 3 for theme in found["themes"])


def test_a_history_in_the_body_gives_what_the_same_user_gets(
    client: httpx.Client, first_shop: Shop
) -> None:
    catalogue, histories = read_store(first_shop.directory / "histories.duckdb")
    history = [catalogue.item_ids[i] for i in histories.row(4)]
    found = client.post("/v1/recommendations", json={"history": history, "k": 5}).json()
    of_user = client.get(path("user-4", "/recommendations"), params={"k": 5}).json()
    assert found["user"] is None
    assert found["recommendations"] == of_user["recommendations"]


def test_nobody_in_particular_is_served_from_what_many_have(client: httpx.Client) -> None:
    found = client.post("/v1/recommendations", json={"history": []}).json()["recommendations"]
    assert found[0]["item_id"] == f"film-{FILMS - 1}"


def events(text: str) -> list[tuple[str, Answer]]:
    blocks = [block.split("\n") for block in text.strip().split("\n\n")]
    return [(a.removeprefix("event: "), json.loads(b.removeprefix("data: "))) for a, b in blocks]


def test_words_come_as_events_portrait_first_and_counts_last(client: httpx.Client) -> None:
    before = metric(client, 'tacit_sentences_total{by="template"}')
    answer = client.get(path("user-5", "/words"), params={"k": 3, "need": "a comedy"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = events(answer.text)
    assert [name for name, _ in found] == ["portrait", *["recommendation"] * 3, "done"]
    told = [data for name, data in found if name == "recommendation"]
    listed = client.get(path("user-5", "/recommendations"), params={"k": 3, "need": "a comedy"})
    assert [one["item_id"] for one in told] == [
        line["item_id"] for line in listed.json()["recommendations"]
    ]
    assert all(one["text"] for one in told)
    assert found[-1][1] == {"written": 4, "retried": 0, "fallbacks": 4, "model": False}
    after = metric(client, 'tacit_sentences_total{by="template"}')
    assert after == before + 4


@pytest.mark.parametrize(
    ("asked", "status", "sentence"),
    [
        (path("nobody"), 404, "no user 'nobody'"),
        (path("nobody", "/recommendations"), 404, "no user 'nobody'"),
        (path("nobody", "/interests"), 404, "no user 'nobody'"),
        (path("nobody", "/words"), 404, "no user 'nobody'"),
        (path("user-1", "/explanations/film-999"), 404, "no item 'film-999'"),
        (path("user-1", "/recommendations?filter=price%3E%3D3"), 400, "filter on 'price'"),
        (path("user-1", "/recommendations?filter=what"), 400, "expected COLUMN=TERM"),
        (path("user-1", "/recommendations?mode=behaviour&need=x"), 400, "behaviour takes no need"),
        (path("user-1", "/recommendations?k=900&reasons=true"), 400, "at most 50"),
        ("/page/secret.txt", 404, "no file"),
    ],
)
def test_what_is_not_there_or_makes_no_sense_is_told_in_a_sentence(
    client: httpx.Client, asked: str, status: int, sentence: str
) -> None:
    answer = client.get(asked)
    assert answer.status_code == status
    assert sentence in answer.json()["detail"]


@pytest.mark.parametrize(
    "asked",
    [
        path("user-1", "/recommendations?k=0"),
        path("user-1", "/recommendations?k=1001"),
        path("user-1", "/recommendations?diversity=2"),
        path("user-1", "/recommendations?diversity=nan"),
        path("user-1", "/recommendations?mode=best"),
        path("user-1", "/recommendations?nonsense=1"),
        path("user-1", f"/recommendations?need={'x' * 1001}"),
        path("user-1", "/recommendations?" + "&".join(["interest=x"] * 21)),
        "/v1/users?limit=100000",
        path("x" * 501),
    ],
)
def test_what_is_out_of_bounds_is_refused(client: httpx.Client, asked: str) -> None:
    answer = client.get(asked)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["msg"]


def test_a_refusal_does_not_send_back_what_was_sent(client: httpx.Client) -> None:
    body = {"history": ["film-1"], "need": "my secret " * 200}
    answer = client.post("/v1/recommendations", json=body)
    assert answer.status_code == 422
    assert "secret" not in answer.text


def test_a_body_that_is_too_large_is_refused_before_it_is_read_whole(client: httpx.Client) -> None:
    answer = client.post("/v1/recommendations", content=b"x" * (9 * 1024**2))
    assert answer.status_code == 413


def test_privacy_tells_the_budget_what_was_spent_and_everything_that_left(
    client: httpx.Client, first_shop: Shop
) -> None:
    found = client.get("/v1/privacy").json()
    budget = found["budgets"][0]
    assert (found["name"], found["delta"], found["unit"]) == ("Shop", 1e-4, "user")
    assert budget["epsilon"] == 8.0
    assert budget["spent"] + budget["remaining"] == pytest.approx(8.0)
    epsilons = [point["epsilon"] for point in budget["points"]]
    assert epsilons == sorted(epsilons)
    assert epsilons[-1] == budget["spent"]
    assert [p["mechanism"] for p in budget["points"]] == [i.mechanism for i in first_shop.intents()]
    noised = [line for line in found["releases"] if line["mechanism"] is not None]
    expected = {(r.sha256, r.size_bytes) for r in first_shop.releases()}
    assert {(line["sha256"], line["size_bytes"]) for line in noised} == expected
    assert found["releases_total"] == 8
    assert found["releases"][0]["kind"] == "deliver_adapter"
    assert [run["run"] for run in found["runs"]] == ["run"]


def test_the_federation_view_tells_runs_the_delivery_and_how_well_it_ranks(
    client: httpx.Client,
) -> None:
    until(
        lambda: client.get("/v1/federation").json()["utility"]["state"] == "ready",
        "the utility",
    )
    found = client.get("/v1/federation").json()
    assert found["runs"][0]["rounds"] == 2
    assert found["runs"][0]["mechanisms"] == {"popularity": 1, "cooccurrence": 1, "step": 2}
    assert found["runs"][0]["federation"] == found["approved"][0]["key"]
    assert found["delivered"]["items"] == FILMS
    assert found["delivered"]["covered"] == 30
    assert "Adapter of a tacit federation" in found["delivered"]["card"]
    utility = found["utility"]
    assert [one["name"] for one in utility["figures"]] == ["popularity", "statistics", "federation"]
    # The run has a share for private evaluation, so its agents keep the newest item apart.
    assert (utility["users"], utility["held_out"]) == (USERS, True)
    assert all(0.0 <= one["hr"] <= 1.0 for one in utility["figures"])


def test_metrics_name_routes_and_no_user(client: httpx.Client) -> None:
    client.get(path("user-3", "/recommendations"), params={"need": "unheard-of"})
    text = client.get("/metrics").text
    assert 'route="/v1/users/{user}/recommendations",status="200"' in text
    assert "user-3" not in text
    assert "unheard-of" not in text
    client.request("BREW", "/v1/users")
    assert "BREW" not in client.get("/metrics").text


def test_titles_are_data(client: httpx.Client) -> None:
    answer = client.get(path("user-0"))
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["history"][0]["title"] == EVIL


def test_a_browser_may_run_and_load_nothing_but_what_the_service_has(client: httpx.Client) -> None:
    for asked in ("/", "/page/app.js", "/v1/users", "/v1/users/nobody"):
        headers = client.get(asked).headers
        assert "default-src 'none'; script-src 'self'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in headers
    assert client.get("/v1/users").headers["cache-control"] == "no-store"


@pytest.fixture
def waiting(shop: Shop) -> Iterator[tuple[Shop, httpx.Client]]:
    """A service to which nothing was delivered yet."""
    shop.forget_delivery()
    with running(shop.directory) as address, httpx.Client(base_url=address) as client:
        yield shop, client


def test_before_the_first_delivery_lists_wait_and_the_rest_is_there(
    waiting: tuple[Shop, httpx.Client],
) -> None:
    _, client = waiting
    answer = client.get(path("user-1", "/recommendations"))
    assert answer.status_code == 503
    assert "delivered nothing yet" in answer.json()["detail"]
    assert client.get("/healthz").json() == {"status": "waiting", "name": "Shop"}
    assert client.get("/v1/privacy").status_code == 200
    assert client.get("/v1/federation").json()["utility"] is None
    assert client.get("/").status_code == 200
    assert metric(client, "tacit_refused_deliveries_total") == 0.0
