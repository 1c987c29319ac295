"""The words that a model may use freely: none names a person, a place, a work or a number.

What is not here and not among the facts is a fault (``grounding.py``), whatever it means. So a word
is added only after asking what the worst sentence is that it makes possible. There is no negation,
no praise, no word for a domain (film, book), and none for what people did with an item beyond
having it.
"""


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


# What a sentence may begin with.
OPENERS = _set(
    "a among an and as because both for from given here if in it its lately no of popular recently "
    "since the there these this to what with you your"
)

# A negation holds only where there is nothing to say (``OF_NOTHING``).
PLAIN = (OPENERS - {"no"}) | _set(
    "about all along any are at based be been being belongs brings by can choice clear close "
    "closest comes connects connections draws each especially even find follows further goes good "
    "has have here's how interest interested interesting interests into is it's kind kinds lead "
    "leads line lines link look looks makes mix much natural nearest offers on one or our out over "
    "part point points reason reasons related right seems set show shows side so some "
    "something sort stand stands such text that that's their them then they think those through "
    "together toward towards turn type types up very way we well where which while who why "
    "you'll you're you've"
)

# Each of these sets holds only where the facts say so.
OF_RECOMMENDATION = _set(
    "another appeal appeals could enjoy fit fits fitting follow further make match matched matches "
    "matching may might more next other pick recommend recommended should suggested "
    "suggestion suit suitable suits try worth would"
)
OF_HISTORY = _set("already chose chosen had history past taste tastes")
OF_WISH = _set(
    "ask asked asking compared looking need needs now request want wanted whole wish word words "
    "text"
)
OF_POPULARITY = _set("many people popularity widely")
COMPARING = _set(
    "alike also both common like likewise same share shared shares sharing similar similarly too"
)
OF_NOTHING = _set("does many much no not popular say single yet")
OF_PORTRAIT = _set(
    "across also become common constant drawn enjoy focus focused keep keeps lean leaning "
    "leans main mainly share shares steady strong strongest tend tends theme themes turning "
    "varied variety"
)
OF_RECENT = _set("latest newest recent most")
RISING = _set("growing grown increasing increasingly more rising")
FALLING = _set("declining fading falling less")

# What may follow the title of the item recommended: what makes it the subject.
AFTER_ITEM = _set(
    "appeals brings comes connects could fits follows goes has is leads looks makes matches may "
    "might offers seems shares should shows stands suits would"
)
# What would make an item of the history the subject.
AFTER_REASON = AFTER_ITEM | _set("are be been can have was were")
# What is said of an item that is recommended, and of none that was had.
RECOMMENDING = OF_RECOMMENDATION - {"another", "more", "other", "further", "matches", "matched"}
# What is said of items that were had.
HAD = _set("already chose chosen had history past")
# What is followed by words of the item's text.
WORDS = _set("word words")
# What parts a sentence into clauses of which each has its own trend.
BETWEEN_CLAUSES = _set(", ; while")
# What may stand before what was asked for.
BEFORE_NEED = _set("asked fits for matches matching of suits to wanted with")
