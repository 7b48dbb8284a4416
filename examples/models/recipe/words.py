"""Word lists that the generated tasks draw from; names and cities are common ones and refer to no real person."""

from __future__ import annotations

from random import Random


def words(text: str) -> list[str]:
    """The words of *text*, which white space separates."""
    return text.split()


def phrases(text: str) -> list[str]:
    """The phrases of *text*, which bars or line ends separate."""
    return text.replace("\n", "|").split("|")


FIRST_NAMES = words(
    """
    Anna Ben Clara David Elena Felix Grace Hugo Ines Jonas Karin Leo Maria Nils Olga Paul Rosa Simon Tara Victor
    Wendy Yusuf Zoe Adam Bella Carlos Diana Erik Fatima George Hanna Ivan Julia Kevin Laura Marco Nadia Oscar
    Petra Quinn Robert Sara Thomas Ursula Vera William Xenia Yara Zack Alice Bruno Cecilia Daniel Emma Frank
    Gloria Henry Irene James Kate Lucas Mia Noah Olivia Peter Rachel Samuel Tina Viola Walter Amira Boris Chen
    Divya Emil Freya Gustav Helen Isaac Jana Kofi Linda Mehmet Nora Omar Priya Rafael Sofia Tom Wei Amara John
    Mary Michael Susan Mark Lisa Alan Jane Bob Carol Martin Lena Max Ella
    """
)

LAST_NAMES = words(
    """
    Keller Smith Jones Brown Garcia Miller Davis Lopez Wilson Moore Taylor Lee Walker Hall Young King Wright
    Hill Scott Green Adams Baker Nelson Carter Mitchell Perez Roberts Turner Phillips Campbell Parker Evans
    Edwards Collins Stewart Morris Rogers Reed Cook Morgan Bell Murphy Bailey Cooper Richardson Cox Howard Ward
    Torres Peterson Gray Ramirez Watson Brooks Kelly Sanders Price Bennett Wood Barnes Ross Henderson Coleman
    Jenkins Perry Powell Long Hughes Flores Novak Kovacs Fischer Weber Schmidt Rossi Bianchi Silva Costa Santos
    Okafor Mensah Tanaka Sato Wang Zhang Kim Park Nguyen Singh Patel Khan Ali Haddad Larsen Berg Nilsson
    Virtanen Dubois Moreau Laurent Meyer Jansen Visser Petrov Doe Johnson Williams Thompson White
    """
)

CITIES = phrases(
    """Lisbon|Berlin|Paris|London|Madrid|Rome|Vienna|Prague|Oslo|Dublin|Athens|Warsaw|Zurich|Geneva|Munich|Hamburg
Milan|Naples|Seville|Porto|Lyon|Boston|Chicago|Denver|Dallas|Seattle|Toronto|Montreal|Austin|Houston|Miami
Atlanta|Phoenix|Portland|New York|San Diego|Los Angeles|Mexico City|Lima|Bogota|Santiago|Cairo|Lagos|Nairobi
Accra|Tunis|Cape Town|Delhi|Mumbai|Tokyo|Osaka|Kyoto|Seoul|Beijing|Shanghai|Hong Kong|Singapore|Bangkok
Hanoi|Jakarta|Manila|Sydney|Perth|Melbourne|Auckland|Helsinki|Stockholm|Copenhagen|Brussels|Ghent|Antwerp
Utrecht|Rotterdam|Leipzig|Dresden|Graz|Basel|Turin|Florence|Venice|Valencia|Bristol|Leeds|York|Oxford
Cambridge|Glasgow|Edinburgh|Cardiff|Belfast|Cork|Krakow|Budapest|Zagreb|Riga|Vilnius|Tallinn"""
)

COLOURS = words(
    "red blue green yellow black white brown grey silver golden orange purple pink old small large new wooden"
)

THINGS = words(
    """
    lamp bicycle chair table clock camera guitar violin piano book painting vase carpet coat hat ring watch
    phone laptop radio map kite drum bag suitcase umbrella mirror boat car tent ladder basket bottle kettle
    knife blanket pillow desk shelf printer scarf jacket bracelet necklace letter key box wallet helmet
    telescope microscope statue puppet candle plate cup teapot bell
    """
)

PRODUCTS = words(
    """
    lamps chairs tables clocks cameras guitars books vases carpets coats hats rings watches phones laptops
    radios bags tents ladders baskets bottles kettles blankets pillows desks shelves printers scarves jackets
    keyboards monitors cables tickets plates cups candles pencils notebooks boxes tyres batteries
    """
)

COMPANY_WORDS = words(
    """
    Northwind Bluebird Silverline Oakwood Redstone Sunrise Harbor Summit Riverside Evergreen Starlight
    Ironbridge Maple Granite Falcon Orchid Beacon Atlas Horizon Crystal Cedar Lighthouse Phoenix Delta Aurora
    Meadow Willow Acme Globex
    """
)

COMPANY_ENDS = phrases("Ltd|Inc|GmbH|Foods|Books|Motors|Travel|Bank|Media|Systems|Design|Trading|Energy|Hotel")

JOBS = words(
    """
    baker teacher nurse doctor pilot farmer painter lawyer engineer gardener driver waiter chef tailor plumber
    carpenter librarian musician dentist journalist
    """
)

WEEKDAYS = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")

MONTHS = words("January February March April May June July August September October November December")

MONTH_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)

_ONSETS = words("b br c ch d dr f g gr h j k kl l m n p pl r s sh st t tr v w z")
_VOWELS = words("a e i o u ai ea oo")
_CODAS = ["", "", "", "n", "r", "l", "s", "m", "t", "nd", "x"]


def invented(rng: Random, syllables: int = 2) -> str:
    """A word that is in no list, such as 'Trolan', so that it can only be copied."""
    parts = (rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(syllables))
    return "".join(parts).capitalize()


def person(rng: Random) -> str:
    """A first and a last name; one in four has an invented part."""
    first = invented(rng) if rng.random() < 0.12 else rng.choice(FIRST_NAMES)
    last = invented(rng, rng.choice((1, 2, 3))) if rng.random() < 0.2 else rng.choice(LAST_NAMES)
    return f"{first} {last}"


def city(rng: Random) -> str:
    """A city; one in seven is invented."""
    return invented(rng, rng.choice((2, 3))) if rng.random() < 0.15 else rng.choice(CITIES)


def company(rng: Random) -> str:
    """A company name such as 'Bluebird Foods'."""
    stem = invented(rng) if rng.random() < 0.2 else rng.choice(COMPANY_WORDS)
    return f"{stem} {rng.choice(COMPANY_ENDS)}"


def thing(rng: Random) -> str:
    """An object with one adjective, without article: 'red lamp'."""
    return f"{rng.choice(COLOURS)} {rng.choice(THINGS)}"


def with_article(noun: str) -> str:
    """*noun* with 'a' or 'an'."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def year_month_day(rng: Random) -> tuple[int, int, int]:
    """A valid day between 1950 and 2039, most often a recent one."""
    year = rng.randint(2015, 2030) if rng.random() < 0.7 else rng.randint(1950, 2039)
    month = rng.randint(1, 12)
    return year, month, rng.randint(1, MONTH_DAYS[month - 1])
