"""Words for secrets: where one stands, what it is part of, and how much it says.

`password` in `password_hash` holds no password, `eos_token` is no token, and *pass* is mostly a verb.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from hybrid_llm.router.privacy.detectors.text import Found, Regex, View

AHEAD: Final = 340
BEHIND: Final = 80
SCORES: Final = {"password": 0.3, "pin": 0.2, "key": 0.2, "token": 0.1, "auth": -0.2, "pass": 0.1, "login": 0.1}
LABEL: Final = Regex(
    rb"(?i)(?P<password>pass[ _-]?word|passwort(?:es|ern?)?|passwd|passwrd|pass[ _-]?phrase|pass[ _-]?code"
    rb"|pass[ _-]?key"
    rb"|pasword|passowrd|passwrod|pssword|one[ _-]?time[ _-]?pass(?:word|code)|losungswort"
    rb"|pwd|pswd?|pword|p/w|kennwort(?:es|ern?)?|[ck]ontrase(?:[nx]y?a|nia)|contrasinal|pasahitza|senha"
    rb"|(?:palavra|palabra|parola|frase)[ -](?:(?:de |di |d')?(?:acces[os]o?|acesso|contrase[nx]a|paso|passe|seguridad"
    rb"|seguranca)|clave|chave|chiave|secreta|segreta|senha|ordine)|mot[ _-](?:secret|cle)|phrase (?:secrete|de passe)"
    rb"|mots?[ _-]?de[ _-]?passe|clave(?:[ _](?:de[ _]acceso|secreta|de[ _]usuario|personal|de[ _]red))?"
    rb"|parola(?: d'ordine|(?:nxz|niz|m[xi]z|[mn])[a-z]{0,3})?"
    rb"|wachtwoord(?:zin)?|paswoord|has[lx](?:o|a|em|u)|losen(?:ord(?:et)?|fras)|adgangs(?:kode(?:n)?|ord(?:et)?)"
    rb"|passord(?:et)?|passfrase|salasan[ao][a-z]{0,5}|tunnussana|salalause|sifre(?:(?:n?iz|miz|[mn]|si)[a-z]{0,3})?"
    rb"|jelsz[oa][a-z]{0,6}|kata[ _](?:sandi|laluan)|mat[ _]khau|lykilorx|axgangsorx"
    rb"|identified\s+by|(?:seed|recovery|mnemonic|secret|unlock|login|access|key)[ _-]?phrase|(?:secret|code"
    rb"|safe|memorable|login|access)[ _-]?word"
    rb"|(?:wi-?fi|wlan|network|router|hotspot)[ _-]?(?:key|code|secret|schlussel|schluessel)|(?:login|sign-?in|user"
    rb"|account|admin|root|db|database|vault)[ _-]?secret"
    rb"|kod(?:e)?ord(?:et)?|hesl(?:o|a|em|u|e|y)|gesl(?:om|[oaui])|lozink[aeou]m?|zaporka|slaptazod[a-z]{1,3}"
    rb"|parool(?:iga|ile|id|i)?|salasxna"
    rb"|zugangswort|geheimwort|geheimnummer|geheimzahl|kenncode|geheimcode"
    rb"|(?:netzwerk|wlan|wifi)-?(?:schlussel|schluessel)|cle[ _-](?:wi-?fi|wpa2?|reseau)|passwoord|codeword"
    rb"|passwrt|passw|requirepass|masterauth|psk|pw|mdp)"
    rb"|(?P<key>api[ _-]?(?:key|secret)|(?:secret|access|private|auth|account|encryption|signing|master"
    rb"|license|subscription|function"
    rb"|storage|shared|webhook|app|application|consumer|service|ssh|activation|recovery|api-?)[ _-]?key"
    rb"|client[ _-]?secret|secret|(?:access|auth|bearer|refresh|session|api"
    rb"|security|private|personal|bot|id|oauth|user|csrf|deploy|service|admin|sas|device)[ _-]?tok[e]n"
    rb"|session[ _-]?id|sess?id|credentials?|(?:log-?in|sign-?in|access)[ _-](?:details|data|info)|zugangsdaten"
    rb"|anmeldedaten|logindaten|identifiants|credencia(?:le)?s|credenziali|inloggegevens|(?:api|geheim"
    rb"|zugriffs)-?schluess?el|(?:api|geheim|zugriffs)-?schlussel|cle[ _-](?:d['\xa1]?)?api|cle[ _-](?:secrete|privee)"
    rb"|api[ _-]?(?:sleutel|nyckel(?:n)?|n[xo]gle|n[xo]kkel|avain|klic|kluc[zs]|anahtar[xi]?)|klucz(?:a)? api"
    rb"|(?:clave|chave|chiave)[ _-](?:de |di |da )?api|api[ _-](?:clave|chave))"
    rb"|(?:\b|_)(?:(?P<key2>cred)|(?P<pin2>pin(?:[ _-]?(?:code|number|nummer))?|otp|totp|tan|cvv2?|cvc2?)"
    rb"|(?P<auth>auth)|(?P<pass2>ww))s?"
    rb"(?-i:[^a-z]|$)|(?-i:[a-z0-9](?:(?P<pin3>Pin(?:Code|Number)?|PIN|Otp|OTP|Cvv|CVV)|(?P<auth2>Auth))(?:[^a-z]"
    rb"|$))|(?P<pin>(?:verification|security|one[ -]?time|2fa|mfa|login|access|unlock|door|gate"
    rb"|alarm|confirmation|authentication|backup|recovery|sms|entry)[ _-]?(?:code|pin)|codice pin|kod[ _-]?(?:pin"
    rb"|dost[ex]pu)|pin-?(?:kode?n?|nummer|numero|luku|koodi)|tunnusluku|adgangspin|code pin"
    rb"|(?:zugangs|zutritts|sicherheits|bestatigungs|bestaetigungs|freischalt|entsperr|toegangs|beveiligings"
    rb"|verificatie)-?code"
    rb"|code (?:d'acces|secret|confidentiel|de securite|de verification)|c[o]digo (?:de acceso|de acesso|secreto"
    rb"|de seguridad|de seguranca|de verifica[cx]i?[ox]n?|de verificacao)|codice (?:di accesso|segreto|di sicurezza"
    rb"|di verifica))|(?:(?P<token>token)s?|(?P<pass>pass)|(?P<login>login|log[ -]?in|sign[ -]?in)s?)(?-i:[^a-z]|$)"
)
_ENGLISH: Final = frozenset({"pwd", "pw"})
_SCRIPTS: Final = {
    "password": (
        "密码|密碼|口令|通行码|通行碼|パスワード|パスコード|パスフレーズ|合言葉|비밀번호|패스워드|비번|암호|парол|Парол|ПАРОЛ"
        "|лозинк|Лозинк|κωδικ|Κωδικ|συνθηματικό|סיסמה|סיסמא|كلمة المرور|كلمة السر|كلمة مرور|الرقم السري|رمز عبور"
        "|رمز المرور|گذرواژه|पासवर्ड|कूटशब्द|পাসওয়ার্ড|கடவுச்சொல்|รหัสผ่าน|პაროლი|գաղտնաբառ"
    ),
    "key": "密钥|密鑰|金鑰|令牌|トークン|シークレット|秘密鍵|アクセスキー|APIキー|토큰|токен|Токен",
    "pin": (
        "验证码|驗證碼|校验码|动态码|暗証番号|認証コード|確認コード|인증번호|인증코드|пин-код|ПИН-код|Пин-код"
        "|код доступа|Код доступа"
    ),
}
"""Words for secrets in scripts that do not fold to Latin letters, or how they begin."""
_SCRIPT: Final = re.compile("|".join(_SCRIPTS.values()))
_KINDS: Final = {word: kind for kind, words in _SCRIPTS.items() for word in words.split("|")}
_ENDING: Final = re.compile(r"[^\W\d_A-Za-z]{0,3}")
"""The inflection of a word."""
_SUFFIX: Final = re.compile(r"s?[0-9]{0,2}(?:[_-][A-Za-z0-9]{1,20}|[A-Z][A-Za-z0-9]{1,20}){0,4}")
_META: Final = re.compile(
    r"hash(?:ed|er|es)?|hints?|fields?|types?|ids?|urls?|uris?|files?|path|names?|len(?:gth)?|min|max"
    r"|polic(?:y|ies)|labels?|placeholder|prompt"
    r"|messages?|msg|errors?|regex|pattern|validators?|validation|expir\w*|ttl|timeout|counts?|limit|size"
    r"|prefix|suffix|headers?|param\w*|env"
    r"|var|inputs?|widget|forms?|class|format|version|algorithm|alg|required|reset|changed?|strength|manager"
    r"|store|storage|provider|service"
    r"|endpoint|lifetime|age|date|at|index|embedding\w*|classification|position|mask|usage|generator|factory"
    r"|help|title|description|info"
    r"|method|handler|getter|callback|func|fn|backend|location|source|ref|context|attr\w*|column|rotation|enc"
    r"|encrypted|encryption|separator|sep|delimiter|list|set|lookup|cost|list|table",
    re.IGNORECASE,
)
"""Parts of a longer name that make it speak of something about a secret: `password_hash`, `tokenType`."""
_PARTS: Final = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+")
_SORT: Final = re.compile(
    r"plain|text|plaintext|clear|cleartext|confirmation|confirm|again|new|old|current|repeat|prod|production"
    r"|dev|staging|stage|live|root|admin|user|db|main|backup|value|string|str|temp|tmp|default",
    re.IGNORECASE,
)
"""Parts of a longer name that leave it the name of a secret."""
_OTHERS: Final = frozenset(
    """
    eos bos pad unk mask sep cls special next prev previous stop start end begin max min num n first last image video
    audio text current per total prompt completion extra sub word input output pos lex line is has no public
    """.split()  # noqa: SIM905
)
"""What stands before *token* where it is a unit of text or a flag."""
_NAME: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789$"
LINE: Final = re.compile(
    r"(?:^|[\r\n])[ \t]{0,20}(?:export |set |env |-e |ENV "
    r"|[*\xa1-] ){0,2}(?:[A-Za-z\x80-\xa1][\w'\xa1-]{0,20} ){0,2}[\"'\w.*$-]{0,60}$",
    re.IGNORECASE,
)
_AGAINST: Final = re.compile(
    r"(?i)(?:hash|digest|checksum|sha-?(?:1|2|256|512)|md5|integrity|commit|revision|fingerprint|regex|schema"
    r"|example(?:[^.\n]|\.(?:[^a-z\n]|$)|$)|e\.g\.)[^\n]{0,20}$"
)
_AGAINST_LENGTH: Final = 34
_LOGIN: Final = re.compile(
    r"(?i)\b(?:user|username|user name|login|log in|account|e-?mail|benutzer|usuario|utilisateur)\b[^\n]{0,60}$"
)
OURS: Final = re.compile(
    r"(?i)\b(?:my|our|meine?|mi|mon|minha|nossa|mijn|onze|unser|notre|nuestra|moje|mojego|nasze|min|mitt|vart"
    r"|minun|nase|benim|mia|nostra)\s(?:[\w-]{1,12}\s)?$"
)
_TYPE: Final = re.compile(r"(?i)\btype[\"']?\s?[=:]\s?[\"']?$|\$[({]$")
"""`type=password` and `$(PWD)`."""
_KEY_BEFORE: Final = re.compile(r"(?:^|[\r\n,;{&?|\"'`<(])[ \t*-]{0,16}[\w.-]{0,40}$")
_ENCLOSED: Final = re.compile(r"\][ \t]{1,3}[^\s_/:]{4,64}_?[ \t]{0,3}(?:[\r\n]|$)")
"""`[pass] X`, where no test is named that passes."""
_JOINED: Final = re.compile(
    r"(?i)(?:^|[^a-z])(?:my|root|bind|db|user|admin|ldap|smtp|ftp|mail|key|store|sudo|ssh|login|ora|sql|pg"
    r"|mysql|wifi|net|app|enc|zip|web|vpn|sys)$"
)
_ASSIGNS: Final = re.compile(r"[\"'`*_]{0,3}\s{0,3}[:=]")
_TYPOGRAPHIC: Final = str.maketrans(
    {
        **dict.fromkeys("\u201c\u201d\u201e\xab\xbb\u300c\u300d\u300e\u300f\u201f", '"'),
        **dict.fromkeys("\u2018\u2019\u201a\u2039\u203a", "'"),
    }
)


@dataclass(frozen=True, slots=True)
class Label:
    """A word for a secret: its score, what stands *before* and *behind* it, where that begins, and its *length*."""

    kind: str
    word: str
    before: str
    behind: str
    offset: int
    length: int
    score: float

    @property
    def is_login(self) -> bool:
        """Whether a name of a user stands before the word."""
        return _LOGIN.search(self.before) is not None

    @property
    def is_english(self) -> bool:
        """Whether the word is one of English, whose phrases and predicates are known best."""
        is_foreign = self.word.startswith(("passwort", "passord", "passwoord"))
        return (
            (self.word.startswith("pass") and not is_foreign) or self.word.endswith("phrase") or self.word in _ENGLISH
        )


def words_in(view: View) -> Sequence[Found]:
    """The words for secrets in *view*, searched for once."""
    if LABEL not in view.notes:
        view.notes[LABEL] = list(_words(view.data))
    found: Sequence[Found] = view.notes[LABEL]
    return found


def _words(data: bytes) -> Iterator[Found]:
    """Every word; groups of one kind differ in what may stand around it, and in the digit at the end of their name."""
    for start, end, kind in LABEL.finditer(data):
        yield Found(start, end, kind.rstrip("23"))


def script_words(text: str) -> Iterator[tuple[int, int, str]]:
    """Start, end and kind of each word for a secret in a script that does not fold to Latin letters."""
    for match in _SCRIPT.finditer(text):
        start, end = match.span()
        ending = (
            _ENDING.match(text, end) if match.group()[-1].isalpha() and match.group().upper() != match.group() else None
        )
        yield start, ending.end() if ending else end, _KINDS[match.group()]


def shown(view: View, start: int, end: int) -> str:
    """The folded text, with typographic quotes as plain ones; one character for each of the text."""
    start = max(start, 0)
    data = view.data[start:end].decode("latin-1")
    if "\xa1" not in data:
        return data
    text = view.text[start:end].translate(_TYPOGRAPHIC)
    return "".join(own if own in "\"'" else folded for folded, own in zip(data, text, strict=True))


def label_at(view: View, found: Found) -> Label | None:
    """The word with its surroundings, if it can stand for a secret there."""
    before, behind = shown(view, found.start - BEHIND, found.start), shown(view, found.end, found.end + AHEAD)
    word = view.data[found.start : found.end].decode("latin-1")
    match = _SUFFIX.match(behind)
    suffix = match.group() if match else ""
    if (
        behind[len(suffix) : len(suffix) + 1].isalnum()
        or _TYPE.search(before)
        or (word.isupper() and suffix[:1].isupper())
        or not _begins(before, word, found.kind)
    ):
        return None
    kind = "password" if found.kind == "pass" and _is_key(before, behind[len(suffix) :]) else found.kind
    score = SCORES[kind] - _loss(before, word.lower(), suffix)
    if score < -0.1:
        return None
    return Label(kind, word.lower(), before, behind[len(suffix) :], found.end + len(suffix), len(word + suffix), score)


def _begins(before: str, word: str, kind: str) -> bool:
    """Whether the word begins here: a short one does not in the middle of another."""
    last = before[-1:]
    if not last.isalnum() or (last.islower() and word[0].isupper()):
        return word.lower() != "tan" or word == "TAN"
    return (kind in {"password", "key"} and len(word) > 3) or (
        kind in {"password", "pass"} and _JOINED.search(before) is not None
    )


def _is_key(before: str, behind: str) -> bool:
    """Whether *pass* is the name of a value, not the verb."""
    is_enclosed = before.endswith("[") and _ENCLOSED.match(behind) is not None
    return (
        is_enclosed
        or OURS.search(before) is not None
        or (_KEY_BEFORE.search(before) is not None and _ASSIGNS.match(behind) is not None)
    )


def _loss(before: str, word: str, suffix: str) -> float:
    """What the rest of a longer name takes: `password_hash` holds no password, and `eos_token` no token."""
    parts = _PARTS.findall(suffix.lstrip("s") if suffix[:1] == "s" else suffix)
    if any(_META.fullmatch(part) for part in parts):
        return 1.0
    loss = 0.2 if any(part.isalpha() and not _SORT.fullmatch(part) for part in parts) else 0.0
    if suffix[:1] == "s" and not word.startswith("pass"):
        loss += 0.1
    if word.endswith("token"):
        name = before.rstrip("_-")
        part = name[len(name.rstrip(_NAME)) :].lower()
        loss += 0.3 if part in _OTHERS else 0.0
    return loss + (0.3 if _AGAINST.search(before[-_AGAINST_LENGTH:]) else 0.0)
