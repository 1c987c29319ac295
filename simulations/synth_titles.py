"""Invented titles and summaries whose words tell an item's themes, for synthetic catalogues."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_WORDS = {
    "Space": (
        "Stellar Lunar Orbital Cosmic Weightless Solar Galactic Starlit Interstellar Spacefaring",
        "Comet Starship Nebula Astronaut Satellite Planet Asteroid Rocket Galaxy Eclipse Moonbase",
        "Saturn Andromeda Callisto Orion Vega Titan Sirius Europa Polaris Centauri",
    ),
    "Western": (
        "Dusty Lonesome Outlawed Saddled Prairie Gunslinging Rawhide Untamed Sagebrush Longhorn",
        "Sheriff Cowboy Saloon Stagecoach Ranch Bandit Mustang Posse Wagon Deputy Showdown",
        "Redrock Tumbleweed Laredo Cheyenne Dryfork Abilene Mesa Coyote Yuma Durango",
    ),
    "Romance": (
        "Tender Beloved Blushing Heartfelt Lovesick Darling Yearning Devoted Smitten Wedded",
        "Kiss Sweetheart Bride Valentine Courtship Proposal Honeymoon Suitor Rose Heart Elopement",
        "Verona Montmartre Capri Lakeview Rosewood Portofino Bellagio Ravello Giverny Sorrento",
    ),
    "Crime": (
        "Crooked Stolen Forged Guilty Ruthless Corrupt Hardboiled Wanted Unsolved Shady",
        "Detective Heist Murder Alibi Gangster Verdict Burglar Suspect Ransom Witness Informer",
        "Brickyard Southgate Harlow Gaslight Greyport Ironbridge Wharfside Kilburn Eastend",
    ),
    "Horror": (
        "Haunted Cursed Bloodless Undead Ghastly Screaming Rotting Possessed Sleepless Unholy",
        "Vampire Crypt Werewolf Ghost Nightmare Coffin Demon Scarecrow Zombie Phantom Exorcist",
        "Ravenmoor Gravesend Hollowfield Blackmere Wolfsden Thornwick Dreadhaven Ashgrove Fogmarsh",
    ),
    "War": (
        "Armoured Besieged Wounded Embattled Decorated Camouflaged Enlisted Frontline Shelled",
        "Soldier Battalion Trench Sniper Regiment Bunker Medic Platoon Siege Armistice Sergeant",
        "Arnhem Tobruk Verdun Monte-Cassino Ypres Gallipoli Sedan Dunkirk Corregidor Anzio",
    ),
    "Comedy": (
        "Clumsy Hilarious Bumbling Goofy Absurd Giggling Mistaken Awkward Slapstick Zany",
        "Prank Landlord Fiasco Roommate Clown Blunder Lodger Misfit Pyjamas Neighbour Punchline",
        "Muddleton Giggleswick Wobbly-Lane Puddlefield Nutley Doodleham Quirkton Tickford",
    ),
    "Music": (
        "Acoustic Melodic Syncopated Jazzy Offbeat Electric Harmonious Unplugged Bluesy Operatic",
        "Guitar Drummer Concerto Ballad Songbird Orchestra Piano Chorus Violin Encore Saxophone",
        "Memphis Salzburg Nashville Motown Broadway Bayreuth Kingston Woodstock Havana Abbey-Road",
    ),
    "Sport": (
        "Undefeated Winning Sprinting Athletic Benched Medalled Heavyweight Relentless Sweaty",
        "Goalkeeper Marathon Champion Boxer Penalty Coach Striker Regatta Tournament Rematch",
        "Wembley Monza Aintree Headingley Twickenham Daytona Fenway Maracana Silverstone Wimbledon",
    ),
    "Nature": (
        "Evergreen Wild Migrating Mossy Blooming Feathered Alpine Untrodden Rainswept Burrowing",
        "Forest Otter Meadow Glacier Falcon Beehive Savannah Wolfpack Orchid Rainforest Badger",
        "Serengeti Yosemite Amazonia Lapland Okavango Snowdonia Patagonia Camargue Kakadu Denali",
    ),
    "Fantasy": (
        "Enchanted Elven Spellbound Runic Mystic Winged Dragonborn Wizardly Faerie Arcane",
        "Dragon Wizard Sorceress Unicorn Goblin Talisman Prophecy Griffin Spellbook Dwarf",
        "Eldermoor Avalindor Mythgard Silverspire Wyrmholt Faerwyn Runehaven Drakemoor Elfmere",
    ),
    "History": (
        "Royal Exiled Medieval Crowned Imperial Courtly Conquering Feudal Dynastic Noble",
        "Queen Emperor Knight Duchess Chronicle Regent Treaty Coronation Gladiator Heir Castle",
        "Byzantium Carthage Versailles Camelot Thebes Toledo Burgundy Sparta Agincourt Samarkand",
    ),
    "Family": (
        "Little Playful Cuddly Curious Homemade Cheerful Barefoot Storybook Snowy Gentle",
        "Puppy Grandmother Treehouse Kitten Teddy Birthday Playground Picnic Kite Cousin",
        "Maple-Street Sunnybrook Appleby Honeywood Buttercup Cloverdale Willowbrook Primrose",
    ),
    "Espionage": (
        "Covert Encrypted Undercover Classified Double Defecting Wiretapped Clandestine Coded",
        "Agent Dossier Cipher Spy Defector Microfilm Mole Embassy Informant Handler Passport",
        "Berlin Vienna Istanbul Prague Helsinki Tangier Trieste Zurich Macau Lisbon",
    ),
    "Seafaring": (
        "Salty Shipwrecked Drifting Tidal Seaworthy Stormbound Barnacled Mutinous Anchored",
        "Captain Galleon Lighthouse Mermaid Harpoon Pirate Lagoon Voyage Schooner Kraken Castaway",
        "Tortuga Nantucket Zanzibar Cape-Horn Whitby Tobago Bermuda Galway Madagascar Biscay",
    ),
    "Robots": (
        "Mechanical Cybernetic Automated Synthetic Virtual Digital Sentient Chrome Rebooted",
        "Android Circuit Machine Algorithm Cyborg Hologram Drone Mainframe Prototype Automaton",
        "Neotokyo Silicon Sector-Nine Cybercity Gridlock Node-Seven Technopolis Datahaven Byteport",
    ),
}

THEMES = tuple(_WORDS)
"""Names of the themes; every array of themes follows this order."""

_KINDS = tuple(
    tuple(tuple(w.replace("-", " ") for w in _WORDS[theme][kind].split()) for theme in THEMES)
    for kind in range(3)
)
_NOUNS = _KINDS[1]
# A pattern names its words; "other" is a second noun.
_SHORT = (
    "{adjective} {noun}",
    "The {adjective} {noun}",
    "The {noun} of {place}",
    "{place} {noun}",
    "The {adjective} {noun} of {place}",
    "{noun} and {other}",
    "Return to {place}",
    "Last {noun} in {place}",
)
_LONG = "{adjective} {noun}: The {other} of {place}"
_TRIES = 4
_SUMMARIES = (
    "The {adjective} {noun} comes to {place} and meets the {other}.",
    "In {place}, the {noun} and the {adjective} {other} change everything.",
    "The tale of the {adjective} {noun}, the {other} and the long road to {place}.",
)
_ROMAN = ("I", "II", "III")


@dataclass(frozen=True)
class Texts:
    """Texts of a catalogue, each ``[items]``; ``genres`` joins theme names with ``|``."""

    titles: list[str]
    genres: list[str]
    summaries: list[str]


def invent_texts(
    themes: npt.NDArray[np.int64],
    counts: npt.NDArray[np.int64],
    series: npt.NDArray[np.int64],
    part: npt.NDArray[np.int64],
    rng: np.random.Generator,
) -> Texts:
    """Unique titles, theme names and one-sentence summaries for a catalogue.

    Args:
        themes: ``[items, 3] int64`` places in ``THEMES``, the main one first.
        counts: ``[items] int64`` how many of them an item has, 1 to 3.
        series: ``[items] int64`` non-decreasing number of the series of each item.
        part: ``[items] int64`` place in the series, from 0; "X" is followed by "X 2" or
            "X Part II", one way throughout a series.
        rng: source of every choice.
    """
    taken: set[str] = set()
    titles: list[str] = []
    genres: list[str] = []
    summaries: list[str] = []
    base, roman = "", False
    for i in range(len(themes)):
        own = [int(k) for k in themes[i, : counts[i]]]
        if part[i] == 0:
            base, roman = _new_title(own, taken, rng), rng.random() < 0.5
        titles.append(_numbered(base, int(part[i]), roman))
        genres.append("|".join(THEMES[k] for k in own))
        summaries.append(_summary(own, rng))
    return Texts(titles, genres, summaries)


def _new_title(own: list[int], taken: set[str], rng: np.random.Generator) -> str:
    attempt = 0
    while True:
        pattern = _SHORT[rng.integers(len(_SHORT))] if attempt < _TRIES else _LONG
        title = pattern.format(**_words(own, rng))
        if title not in taken:
            taken.add(title)
            return title
        attempt += 1


def _summary(own: list[int], rng: np.random.Generator) -> str:
    words = _words(own, rng)
    lower = {kind: word if kind == "place" else word.lower() for kind, word in words.items()}
    return _SUMMARIES[rng.integers(len(_SUMMARIES))].format(**lower)


def _words(own: list[int], rng: np.random.Generator) -> dict[str, str]:
    """A word for every name in a pattern: the noun of the main theme, the rest of any own one."""
    adjectives, nouns, places = (kind[own[rng.integers(len(own))]] for kind in _KINDS)
    noun, other = rng.integers(len(_NOUNS[own[0]])), rng.integers(len(nouns) - 1)
    return {
        "adjective": adjectives[rng.integers(len(adjectives))],
        "noun": _NOUNS[own[0]][noun],
        "other": nouns[other + (other >= noun)],
        "place": places[rng.integers(len(places))],
    }


def _numbered(title: str, part: int, roman: bool) -> str:
    if part == 0:
        return title
    return f"{title} Part {_ROMAN[part]}" if roman else f"{title} {part + 1}"
