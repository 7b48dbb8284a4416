"""How much a text looks like a secret by itself, whatever stands around it.

Nothing here is a proof: a score is one part of the evidence, and a label, a sign or a quote beside the text add theirs.
"""

from __future__ import annotations

import re
from typing import Final

from hybrid_llm.router.privacy.detectors.credentials.gitleaks import entropy

RANDOM: Final = 0.6
MIXED: Final = 0.4
"""Letters with digits or marks in between: `hunter2`, `Summer!`."""
NUMBER: Final = 0.2
PHRASE: Final = 0.2
"""Several words, none of which makes a sentence of them."""
WORD: Final = 0.1
NOTHING: Final = -1.0
"""A placeholder, a word about secrets, or a piece of program text."""

_PLACEHOLDER: Final = re.compile(
    r"(?:[*x•.#?_\xa1-]|\\)+|\$(?:[A-Za-z_]+|(?-i:[A-Z_][A-Z0-9_]*)|\d|[({].*)|%(?:[A-Za-z_]+%?|\(.*)"
    r"|[{<\[(].*|@\w+@|__\w+__|#\{.*"
    r"|.*(?:\{\{[^{}]*\}\}|\$\{|%\(|\{[\w.!\[\]'\"]*\}|<[\w -]+>|\.\.\.|[x*]{4}|\xa1{3}).*|(?:your|my|the|some|any"
    r"|enter|insert|replace|put)(?:[_ -].*)?"
    r"|.*(?:your[_-]|[_ -]here|change[_-]?(?:me|it|this)|example|placeholder|redacted|dummy|sample|fake"
    r"|_goes_|todo|replace[_-]?me"
    r"|masked|not[_-]a[_-]?(?:real|secret)).*|n/?a|foo|bar|baz|foobar|tbd|.*%[sd](?:[^A-Za-z0-9].*)?"
    r"|[A-Za-z_-]*(?:password"
    r"|passwd|secret|token|api[_-]?key|access[_-]?key|credential)[A-Za-z_-]*|[a-z_]+tokens?[+-]\d|abc|xyz|test"
    r"|testing|something|whatever",
    re.IGNORECASE,
)
_STOP: Final = frozenset(
    """
    a about above after again all already also always an and any anyone are as at away back bad base base64
    basic be because been before being below bearer between both broken but by bytes bool boolean call can
    cannot char class client clear code column common compare config configuration confidential const context
    cookie copied correct count credential credentials credentialed current data date default delete describe
    detail details dict different do does done down each edit either email empty enabled end enough enter entry
    env environ environment error even every exact fail fails false field file fine first float for forgot
    forgotten form format free from function generic get getpass given global gone good group had has hash have
    header hello help her here hex hidden his how http https i id identical if illegal import in incorrect index
    information input insecure int integer into invalid is it item its json key keys kind kwargs known label
    last later left length less let like line list local login long lost made main map match mandatory max maybe
    me member message method min minimum misc missing mode model more most must my name native necessary need
    never new next nil no non none normal not nothing now null number numeric object obsolete of off ok okay old
    on once one only open option optional options argument arguments flag flags or
    other our out outside over own page param parameter parent part
    partial passcode passphrase passwd password passwords path pending per permanent pin plain plaintext please
    point post present private prompt property public put pwd query random raw read ready real record regex
    request required reset response result results return returns role row safe same save scope secret secrets
    secure see self sensitive sent session set setting settings short should show similar simple single so some
    still stop str string strong stronger such super table tag tell temporary temporarily term test text than
    that the their them then there these they this those through time title to today together token tokens too
    true try two type undefined under unique unknown until unsafe up update url use useless used user username
    uuid valid value values var variable vary version very via visible void was way weak weaker were what when
    where whether which while who whole whose why will with within without word would write wrong xml yaml yes
    yet you your ssl tls ssh jwt oauth api rsa aes des hmac bcrypt scrypt argon utf unicode ascii latin double
    decimal byte least characters character letters digits eight symbols usr jeton passwort kennwort contrasena
    clave senha wachtwoord haslo parola falsch erforderlich requis requerido requerida policy policies manager
    box dialog generator checker strength history rotation recovery window screen protection produce print
    status select continue proceed prevent allow avoid access gain ensure improve protect pass pages change
    changes link chosen content contents shown stolen written taken kept held met spelled spelt bound leaked
    galt niepoprawne incorrecta incorrecto oublie olvidada mot mots passe du de la le les el los las una der die
    das ein eine ist sie ihr ihre votre vous su sus tu nuevo nueva nouveau nouvelle neues aktuelles confirm
    confirmation confirmer confirmar hint reminder
    """.split()  # noqa: SIM905
)
_SENTENCE: Final = frozenset(
    """
    a an the is are was be been being must should shall will would can cannot could may might do does did has
    have had not no your my our his her its their this that these those you we they it i me us he she who which
    what where when why how if then than please enter for of to in on at by with without from as and or but so
    into out over under until while password passwords passphrase passwd passwort kennwort contrasena clave
    senha wachtwoord token tokens secret key keys api pin code codes required optional invalid incorrect missing
    expired forgotten forgot reset change changed confirm confirmation current username user users email e-mail
    field value least most characters character letters digits long mot passe de la le les el los las una un une
    du des der die das ein eine ist nicht bitte votre vous su sus tu ihr ihre para por con per il lo gli che non
    e o y et und oder mit fur fuer zum zur nao sua seu da dos om het een uw niet string strings number text only
    used using use stored default allowed empty blank none null true false
    """.split()  # noqa: SIM905
)
_ABOUT: Final = re.compile(
    r".{3,}(?:ed|ing|able|ible|less|ly|tion|sion|ment|ity|ness|ful|ive|ous|ary|ory|ism|izer|iser|Field|Type"
    r"|Str|String|Input|Config)",
)
"""How words about a password end: `required`, `missing`, `usable`, `empty`; and names of types."""
_STATE: Final = re.compile("[a-zA-Z]?[a-z]{2,}(?:ed|able|ible|tion)|[A-Za-z]{3,}(?:Field|Type|Input|Config)")
_TECHNICAL: Final = re.compile(
    r"(?:sha|md|utf|base|argon|pbkdf|oauth|ipv|aes|rsa|http|python|py|int|uint|float|rs|hs|es|ps|ed|x|v|f|u|i"
    r"|l|t5|gpt|bcrypt|scrypt|auth"
    r"|iso|cp|latin|rot|windows|tls|ssl|k8s|ec|s3|ntlm|web|step|part|phase|version|level|option|chapter|line|page"
    r"|row|col|test)[-_./]?\d{1,5}(?:[-_./]\w{1,8})*|\d+(?:st|nd|rd|th|px|em|rem|pt|ms|s|kb|mb|gb|k|m|d|h|x|bit|bits)"
    r"|v?\d+(?:\.\d+)+\w*|\d{1,3}(?:_\d{3})+|#[0-9a-f]{1,8}|0x[0-9a-f]{1,8}|\d\*[a-z]+",
    re.IGNORECASE,
)
"""Names of formats and algorithms, numbers of versions, sizes: letters and digits, and no secret."""
_NAME: Final = r"[A-Za-z_$]+[0-9]*(?:_[A-Za-z0-9]+)*"
_CODE: Final = re.compile(
    rf"{_NAME}(?:(?:\??\.|::|->){_NAME})+;?|[A-Za-z_$][\w$.:]{{2,}}(?:\((?:[\w\"'*&{{\[()-].*)?|\[.*)|[^()]*\.\w+\(.*"
    rf"|[A-Z][A-Za-z0-9]*(?:Password|Token|Secret|Credential)[A-Z][A-Za-z]+|[\w.]+(?:\|[\w.]+)+"
    rf"|[A-Za-z]+(?:\.[A-Za-z]+)*\[.*|lambda\b.*|@[A-Za-z_.]+(?:\(.*)?|[\w-]+=[\"'].*|[A-Za-z_]+=[\d.]+[)}}\]]{{0,3}}"
)
"""Attributes, calls and items: what stands without quotes in program text."""
_ADDRESS: Final = re.compile(
    r"[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.(?:[a-z]{2,}|COM|ORG|NET|DE)|[a-zA-Z][a-zA-Z0-9+.-]*://.*|~?\.{0,2}/[\w./@-]*"
    r"|[A-Z]:\\.*"
)
_TRANSITION: Final = re.compile(r"[A-Za-z][0-9]|[0-9][A-Za-z]|[a-z][A-Z]{2}|[A-Z]{2}[a-z]")
_MARK: Final = re.compile(r"[!@#$%^&*+?~]")
_SEPARATOR: Final = re.compile(r"[\\|=()\[\]{}<>/,;:\"']")
_PARTS: Final = re.compile(r"[\W_]+")
_CAMEL: Final = re.compile("[a-z][A-Z]")
_WORDLIKE: Final = re.compile(r"[^\W_]")
_PIECE: Final = re.compile("[A-Z]?[a-z]+|[A-Z]+")
_ANY_PIECE: Final = re.compile("[A-Z]?[a-z]+|[A-Z]+|[0-9]+")
_LONG_WORD: Final = re.compile("[a-z]{5}")
_UPPER: Final = re.compile("[a-z].*[A-Z]")
_UNSPEAKABLE: Final = re.compile(
    "[bcdfghjklmnpqrstvwz]{6}|[bcdfghjklmnpqrstvwxz]{2}[BCDFGHJKLMNPQRSTVWXZ][bcdfghjklmnpqrstvwxz]{2,}[A-Z]?[a-z]{0,3}"
)
_ALPHABET: Final = re.compile(
    "(?:0?123456789?0?|abcdefg?h?i?j?k?l?|[-_]|a1b2c3(?:d4(?:e5(?:f6)?)?)?|x+|0{4,}|deadbeef)+", re.IGNORECASE
)
_REQUIREMENT: Final = re.compile(
    r"[A-Za-z][\w.-]*(?:\[[\w,-]+\])?(?:[=~!<>]=[0-9][0-9.*]*|[<>][0-9]+\.[0-9.]+)(?:,[=~!<>]{1,2}[0-9.*]+)*"
)
"""A package and its version (PEP 508)."""
_PATH: Final = re.compile(
    r"[a-z]+(?:\.[a-z_]+)+\.(?:[A-Z][a-z]+(?:[A-Z][a-z]+)+|[a-z]+(?:_[a-z]+)+)|(?:[a-z]+\.){3,}[A-Za-z_]+"
)
"""The path of a module and what it defines."""
_LEAST_LETTERS: Final = 4
"""Different letters that a jumble has."""


def likeness(value: str, *, bare: bool = False) -> float:
    """How much *value* looks like a secret, up to `RANDOM`; *bare* without quotes, where program text may stand."""
    if _PLACEHOLDER.fullmatch(value) or value.lower().strip("_-.:!?") in _STOP or _ADDRESS.fullmatch(value):
        return NOTHING
    if _REQUIREMENT.fullmatch(value) or _PATH.fullmatch(value):
        return NOTHING
    if any(map(str.isspace, value)):
        return _of_words(value)
    if bare and is_code(value):
        return NOTHING
    if value.isdigit():
        return NUMBER
    return _of_one(value, bare=bare)


def is_code(value: str) -> bool:
    """Whether *value* is an attribute, a call or an item of program text."""
    return _CODE.fullmatch(value) is not None and ("(" in value or not is_random(value))


def is_predicate(value: str) -> bool:
    """Whether *value* ends as adjectives, participles and names of types do."""
    return _ABOUT.fullmatch(value.rstrip("!?")) is not None


def is_random(value: str) -> bool:
    """Whether no one would choose *value* for a name: letters and digits change often, in at least ten characters."""
    if len(value) < 10 or _ALPHABET.fullmatch(value):
        return False
    if _is_name(value):
        return False
    changes = sum(1 for _ in _TRANSITION.finditer(value))
    return changes >= 3 and changes * 8 >= len(value) - 8 and entropy(value.encode("latin-1", "replace")) > 2.8


def _is_name(value: str) -> bool:
    """Whether *value* is joined from words of which one is long, as `GPT2ForCausalModel`."""
    value = value.replace(".", "")
    if not value.isalnum() or _LONG_WORD.search(value) is None:
        return False
    pieces = _ANY_PIECE.findall(value)
    return len(pieces) * 2.6 <= len(value) and sum(piece.isdigit() for piece in pieces) <= 2


def _of_one(value: str, *, bare: bool) -> float:
    if is_random(value):
        return RANDOM
    letters, digits = any(map(str.isalpha, value)), any(map(str.isdigit, value))
    marks = _MARK.search(value) is not None and (
        digits or (_SEPARATOR.search(value) is None and value[0] not in "*+?&^%~")
    )
    if digits and (letters or marks):
        return NOTHING if _TECHNICAL.fullmatch(value.rstrip("_")) or _is_filled(value) else MIXED
    joined = value.replace("-", "").replace("_", "").replace(".", "").rstrip("!?")
    if joined.isalpha() and value.rstrip("!?") != joined and not value.isupper() and "-" not in value and bare:
        return NOTHING  # names joined by underscores or dots: program text
    if joined.isalpha():
        return _of_letters(value, joined, bare=bare)
    return MIXED if letters and marks else NOTHING


def _is_filled(value: str) -> bool:
    """Whether every part of *value* is one character, again and again: `1111-aaaaa`."""
    return all(len(set(part)) == 1 for part in _PARTS.split(value))


def _of_letters(value: str, joined: str, *, bare: bool) -> float:
    if len(joined) >= 8 and len(set(joined)) >= _LEAST_LETTERS and not joined.isupper() and _is_jumbled(joined):
        return MIXED
    if not joined or _STATE.fullmatch(value) or (bare and (is_predicate(value) or _CAMEL.search(value))):
        return NOTHING
    parts = re.split("[-_.]", value.rstrip("!?").lower())
    if len(parts) > 2:
        return NOTHING if any(part in _SENTENCE for part in parts) else PHRASE
    return WORD + 0.1 if value.endswith("!") else WORD


def _is_jumbled(letters: str) -> bool:
    """Whether letters of both cases make no words, as those of `camelCase` do."""
    pieces = _PIECE.findall(letters)
    return (_UPPER.search(letters) is not None and len(letters) < 3.2 * len(pieces)) or _UNSPEAKABLE.search(
        letters
    ) is not None


def _of_words(value: str) -> float:
    words = [word.strip(".,;:!?()'\"").lower() for word in value.split()]
    if any(not _WORDLIKE.search(word) for word in words):
        return NOTHING  # signs between words: program text
    if not 2 <= len(words) <= 30 or any(word in _SENTENCE or not word for word in words) or "|" in value:
        return NOTHING
    if len(words) == 2 and any(word in _STOP or _ABOUT.fullmatch(word) for word in words):
        return NOTHING
    return PHRASE if len(words) > 2 and all(word.isalnum() for word in words) else WORD
