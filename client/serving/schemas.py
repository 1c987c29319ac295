"""What requests may carry and what answers hold; everything has bounds."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from client.recommend.filters import parse_filter
from client.recommend.query import Mode, Query

MOST_ITEMS = 1000
LONGEST_NEED = 1000
LONGEST_NAME = 500
MOST_INTERESTS = 20
MOST_FILTERS = 20
MOST_HISTORY = 10_000
MOST_USERS = 1000
# Every reason is a score without an item of the history: lists with reasons are short.
MOST_EXPLAINED = 50

Text = Annotated[str, Field(max_length=LONGEST_NEED)]
Identifier = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]
Share = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]


class Asked(BaseModel):
    """Parameters or a body; what is not known is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Wish(Asked):
    """How to rank, for a user and for a history alike."""

    k: int = Field(10, ge=1, le=MOST_ITEMS, description="Length of the list.")
    need: Text | None = Field(None, description="What is wanted now, in words.")
    interest: tuple[Text, ...] = Field(
        (), max_length=MOST_INTERESTS, description="Lasting interests, in words."
    )
    mode: Mode = Field("hybrid", description="By history, by texts, by both, or generated.")
    filter: tuple[Annotated[str, Field(max_length=LONGEST_NAME)], ...] = Field(
        (),
        max_length=MOST_FILTERS,
        description="Such as genres=Comedy|Drama, year>=1990 or year<=1999; all must hold.",
    )
    diversity: Share = Field(0.0, description="Above 0: by maximal marginal relevance.")
    popularity_damping: Share = Field(0.0, description="1 takes popularity out of the score.")
    exclude_seen: bool = Field(True, description="Leave out what the history has.")
    reasons: bool = Field(
        False, description=f"Explain each line; lists of at most {MOST_EXPLAINED}."
    )

    def query(self) -> Query:
        """As the recommender takes it.

        Raises:
            ConfigError: for a filter of another form.
        """
        return Query(
            k=self.k,
            need=self.need,
            interests=self.interest,
            exclude_seen=self.exclude_seen,
            filters=tuple(parse_filter(text) for text in self.filter),
            mode=self.mode,
            diversity=self.diversity,
            popularity_damping=self.popularity_damping,
        )


class HistoryWish(Wish):
    """A history and how to rank for it. Nothing of it is kept."""

    history: tuple[Identifier, ...] = Field(
        max_length=MOST_HISTORY, description="Identifiers of items in order of time; may be empty."
    )


class NeedOnly(Asked):
    """A need beside a path."""

    need: Text | None = Field(None, description="What is wanted now, in words.")


class WordsWish(NeedOnly):
    """For how many recommendations a sentence is written."""

    k: int = Field(5, ge=1, le=20, description="Sentences.")


class UsersWish(Asked):
    """Which users to list."""

    search: str = Field("", max_length=LONGEST_NAME, description="Part of an identifier.")
    limit: int = Field(20, ge=1, le=MOST_USERS)


class HistoryLimit(Asked):
    """How much of a history."""

    limit: int = Field(50, ge=1, le=MOST_HISTORY)


class Failure(BaseModel):
    """Why there is no answer."""

    detail: str


class Malformed(BaseModel):
    """One thing that is wrong with a request."""

    loc: list[str | int]
    msg: str
    type: str


class Rejected(BaseModel):
    """Everything that is wrong with a request."""

    detail: list[Malformed]


class UserLine(BaseModel):
    """A user of the organisation."""

    id: str
    interactions: int


class Users(BaseModel):
    """Some users, and how many there are that match."""

    users: list[UserLine]
    total: int


class Had(BaseModel):
    """One interaction."""

    item_id: str
    title: str
    text: str
    time: float = Field(description="Seconds since 1970.")
    rating: float | None


class User(BaseModel):
    """A user's history, newest first."""

    id: str
    interactions: int
    history: list[Had]


class DeliveryState(BaseModel):
    """What the federation delivered last."""

    run: str
    round: int
    adapter: bool
    stamp: str
    own_cooccurrence: bool = Field(
        description="Whether the organisation's own pairs count too, outside the guarantee."
    )


class Because(BaseModel):
    """An item of the history, and the score that is lost without it."""

    item_id: str
    title: str
    drop: float


class Matched(BaseModel):
    """A word of the item's text, and the score that is lost without it."""

    word: str
    drop: float


class Explained(BaseModel):
    """What carried one recommendation."""

    item_id: str
    title: str
    score: float
    parts: dict[str, float]
    history: list[Because]
    together: float = Field(description="Score lost without all of `history`.")
    words: list[Matched]
    sentence: str


class Line(BaseModel):
    """One line of a list."""

    item_id: str
    title: str
    text: str
    score: float
    parts: dict[str, float] = Field(description="What the score is the sum of.")
    predicted_rating: float | None
    explanation: Explained | None = None


class Recommended(BaseModel):
    """A list."""

    user: str | None = Field(description="None for a history that came with the request.")
    delivery: DeliveryState
    recommendations: list[Line]


class ThemeLine(BaseModel):
    """What recurs in a history."""

    name: str
    column: str
    weight: float
    lift: float
    shares: list[float] = Field(description="Share within each period, oldest first.")


class InterestsOfUser(BaseModel):
    """A user's themes over time."""

    user: str
    periods: list[tuple[float, float]] = Field(description="Seconds since 1970, oldest first.")
    themes: list[ThemeLine]


class Health(BaseModel):
    """Whether requests can be answered."""

    status: Literal["ok", "waiting"] = Field(description="waiting: nothing can be used yet.")
    name: str
