"""Patterns for what only a word identifies: numbers of medical records, licences and passports, and dates of birth.

Their formats are so common that each counts only with its word: as the key or header of the value, beside it, or, where
the format is typical, near it.
"""

from __future__ import annotations

import re
from typing import Final

from hybrid_llm.router.privacy.detectors.engine import Candidate, Context, Pattern
from hybrid_llm.router.privacy.detectors.evidence import Family
from hybrid_llm.router.privacy.detectors.text import Regex, apart, fold

_TYPICAL: Final = 0.2
"""The score of a format that a word near it confirms."""
_COMMON: Final = 0.1
"""The score of a format that only a word confirms that names it."""
_OTHERS: Final = Context(
    rb"phones?|tel(?:ephone)?|fax|mobile|zip|orders?|invoices?|plates?|versions?|fees?|prices?|rooms?|ssns?|e-?mails?"
)
_BEFORE: Final = rb"0-9A-Za-z_.@/"
_AFTER: Final = rb"0-9A-Za-z_@"


def _compact(candidate: Candidate) -> str:
    return "".join(filter(str.isalnum, candidate.value))


def _digits_in(compact: str) -> int:
    return sum(map(str.isdigit, compact))


_GERMAN: Final = rb"(?:e?s|en?|er|ern)?(?:-?nummern?|-?nr)?"
"""The endings of a German noun, and what it is joined with."""
_FAMILY: Final = Family()
_ABOUT_RECORDS: Final = Context(
    rb"m\.?r\.?n\.?s?|(?:med(?:ical)?|p(?:atien)?t|hosp(?:ital)?|health|chart|clinic(?:al)?|case history)[ ._-]{0,2}"
    rb"(?:rec(?:ord)?s?|file|chart)?[ ._-]{0,2}(?:ids?|no|nr|num(?:ber)?|ident(?:ifier|ification)?|#)|mr ?(?:#|no"
    rb"|num(?:ber)?)|med(?:ical)?[ ._-]{0,2}rec(?:ord)?s?|health[ _-](?:card|insurance|records?)|medicare|medicaid"
    rb"|nhs (?:no|number)|member[ _-]?id|patients?[ _-]?(?:ref(?:erence)?)"
    rb"|pati[ex]nt(?:en)?[ _-]?(?:nummern?|nr|kennung|ident|akten?(?:nummer|zeichen)?|dossiers?|journal[a-z]*)"
    rb"|fallnummern?"
    rb"|krankenakten?(?:nummer)?|aktenzeichen des patienten|medisch(?:e|es)? dossiers?|historial(?:es)? (?:medico"
    rb"|clinico)"
    rb"|journal(?:nummer[a-z]*|nr|ens?)|dokumentacj[a-z]+ medyczn[a-z]+|histori[a-z]* choroby|numer[a-z]* pacjent[a-z]+"
    rb"|cisl[a-z]+ pacient[a-z]*|zdravotn[a-z]+ (?:kart[a-z]+|dokumentac[a-z]+)|potilas(?:numero|tunnus)[a-z]*"
    rb"|(?:hasta|protokol) (?:no|numara)[a-z]*|torzssz[ax]m[a-z]*|betegazonosito[a-z]*"
    rb"|(?:numero|num|no|id|identifiant|identificador)\.?[ _-](?:de |du |del |da |do )?(?:la )?(?:dossier|paciente"
    rb"|patient|paziente|expediente|prontuario|historia)|dossier (?:patient|medical)|historia clinica|cartella clinica"
    rb"|expediente clinico|prontuario|dossiernummer|patientnummer",
    (
        *("病历号", "病案号", "住院号", "门诊号", "就诊卡", "医保卡", "病歷號", "患者编号"),
        *("медицинской карт", "Медицинская карт", "медицинская карт", "истории болезни", "История болезни"),
        *("историю болезни", "медичної карт", "Медична карт", "історії хвороби"),
    ),
    family=_FAMILY,
)


def _record(candidate: Candidate) -> float:
    compact = _compact(candidate)
    digits = _digits_in(compact)
    if digits < 2 or len(compact) < 4 or (digits == len(compact) and digits < 5):
        return 0.0
    return _COMMON


MEDICAL_RECORD: Final = (
    Pattern(
        apart(
            rb"(?:[A-Z]{1,4}[ .:/#-]{1,2})?[0-9]{1,6}(?:[ ./-][0-9]{1,6}){1,3}|[A-Za-z0-9][A-Za-z0-9-]{2,18}[A-Za-z0-9]"
            rb"|[A-Za-z]{1,4}[./][0-9]{3,12}",
            _BEFORE,
            _AFTER,
        ),
        _record,
        near=_ABOUT_RECORDS,
        against=_OTHERS,
        weak=True,
        needs=b"1",
    ),
)

_ABOUT_LICENCES: Final = Context(
    rb"dri?v(?:e?r|ing)?['\xa1]?s?['\xa1]?[ ._-]{0,2}(?:lic(?:en[cs]e)?s?|permits?|ids?)"
    rb"|c\.?d\.?l\.?s?(?:[ ._-]{0,2}(?:#|no|nr|num(?:ber)?))?|learner['\xa1]?s?[ _-]permit"
    rb"|fahrerlaubnis(?:se)?(?:-?nummern?|-?nr)?"
    rb"|fahrausweis" + _GERMAN + rb"|licencia de manejo|licencia de conductor|d\.?l\.?(?:n\.?|[ ._-]{0,2}(?:#|no|nr"
    rb"|num(?:ber)?))?"
    rb"|lic(?:en[cs]e)?[ ._-]{0,2}(?:no|nr|num(?:ber)?|id|#)|dlnumber|operator['\xa1]?s?[ _-]lic(?:en[cs]e)?"
    rb"|f(?:u|ue|x)hrerschein" + _GERMAN + rb"|permis(?:ul|ului)? de condu[a-z]+|(?:ton|votre|mon|son|leur) permis"
    rb"|num[ex]ro de (?:ton |votre |mon |son )?permis|permisos? de conduc[a-z]+"
    rb"|licencias? de conduc[a-z]+|carn[ex]t?s? de (?:conduc[a-z]+|manejo)|patent[ei](?: di guida)?"
    rb"|cartas? de condu[a-z]+"
    rb"|cnh|rijbewij[sz](?:en)?(?:nummer)?|praw(?:o|a|em|ie|u)? jazdy|vozni[sx]k[a-z]+ dovoljen[a-z]+"
    rb"|vairuotojo pa[zx]ym[a-z]+|vaditaja apliec[a-z]+|juhil(?:uba|oa)[a-z]*|k[ox]r(?:e)?kort[a-z]*"
    rb"|f[ox]rerkort[a-z]*|ajokort[a-z]*|ridicsk[a-z]+(?: prukaz[a-z]*)?"
    rb"|vodicsk[a-z]+ preukaz[a-z]*|ehliyet[a-z]*|surucu belge[a-z]*|jogositvany[a-z]*|vezetoi engedely[a-z]*"
    rb"|vozack[a-z]+ dozvol[a-z]+|carteira (?:de motorista|nacional|de habilita[a-z]+)|habilitacao"
    rb"|(?:bang|phep) lai xe",
    (
        *("驾驶证", "驾照", "驾驶执照", "駕照", "駕駛證", "駕駛執照", "運転免許", "免許証", "운전면허", "면허증"),
        *("водительск", "Водительск", "ВОДИТЕЛЬСК", "водійськ", "Водійськ", "посвідчення водія", "Посвідчення водія"),
        *("шофьорск", "Шофьорск", "οδήγησ", "οδηγήσ", "Οδήγησ"),
    ),
    family=_FAMILY,
)
_POLISH: Final = rb"[0-9]{5}/[0-9]{2}/[0-9]{4}"
"""The number of a Polish licence: of the form, the year, and the office."""
_TOKEN: Final = rb"[A-Za-z]{0,8}[0-9][A-Za-z0-9*]{0,15}"


def _licence(candidate: Candidate) -> float:
    compact = _compact(candidate)
    digits = _digits_in(compact)
    if not 5 <= len(compact) <= 20 or digits < 3 or _DATE_LIKE.fullmatch(candidate.value):
        return 0.0
    is_typical = len(compact) >= 7 and digits >= 6 and compact[0].isalpha() and not compact[:3].islower()
    return _TYPICAL if is_typical or "/" in candidate.value else _COMMON


_DATE_LIKE: Final = re.compile(
    r"(?:19|20)[0-9]{2}[-./ ](?:0?[1-9]|1[0-2])[-./ ][0-3]?[0-9]|[0-3]?[0-9][-./ ][0-3]?[0-9][-./ ](?:19|20)[0-9]{2}"
)

DRIVER_LICENSE: Final = (
    Pattern(
        apart(
            _POLISH
            + rb"|(?:(?:[A-Z]{1,2}|[A-Z][A-Z9]{4})[ -]{1,2})?"
            + _TOKEN
            + rb"(?:[ -]{1,2}"
            + _TOKEN
            + rb"){0,4}(?:-[A-Za-z])?",
            _BEFORE,
            _AFTER,
        ),
        _licence,
        near=_ABOUT_LICENCES,
        against=_OTHERS,
        weak=True,
        needs=b"1",
    ),
)

_ABOUT_PASSPORTS: Final = Context(
    rb"passports?(?:[ _-]?(?:no|nr|num(?:ber)?|id|#))?|(?:ppt?|psp(?:or)?t|pass)[ ._-]{0,2}(?:no|nr|num(?:ber)?|#)"
    rb"|reisep(?:ass|x+)" + _GERMAN + rb"|(?:[dms]eines|ihre[sr]?|eures|unseres|des) p(?:asses|asse|xsse)"
    rb"|pasaportes?|passeports?|passaport[eo]s?|paspoort(?:en)?(?:nummer)?|paszport[a-z]{0,4}|travel documents?"
    rb"|passport_?n|(?:pass?|passets|passin?|passinumero)[ -]?(?:nummer|nr|numero)|rejsepas(?:set)?"
    rb"|passi(?:n|si|nne|ni)?(?: ?numero[a-z]*| number[a-z]*)?|passets?|(?:dit|ditt|din|ert|deres|mitt|mit) pass?"
    rb"|cestovn[a-z]+ pas[a-z]{0,2}|cisl[oa] (?:[a-z]{2,9} )?pasu|pasaport[a-z]*|utlevel[a-z]*|putovnic[a-z]{1,2}"
    rb"|paspor"
    rb"|potn[a-z]{1,3} list[a-z]{0,2}|paso numer[a-z]+|pases numur[a-z]+"
    rb"|vegabref[a-z]*|ho chieu",
    (
        "护照",
        "護照",
        "通行证",
        "旅券",
        "パスポート",
        "여권",
        "паспорт",
        "Паспорт",
        "ПАСПОРТ",
        "διαβατ",
        "Διαβατ",
        "جواز",
        "דרכון",
    ),
    family=_FAMILY,
)


_GERMAN_PASSPORT: Final = re.compile("[CFGHJKLMNPRTVWXYZ][CFGHJKLMNPRTVWXYZ0-9]{8}")
"""No vowels, so that no word arises, and no letters that look like digits (PassV, annex 11)."""
_DUTCH_PASSPORT: Final = re.compile("[A-NP-Z]{2}[A-NP-Z0-9]{6}[0-9]")


def _passport(candidate: Candidate) -> float:
    compact = _compact(candidate)
    digits = _digits_in(compact)
    is_german = digits > 0 and _GERMAN_PASSPORT.fullmatch(compact) is not None
    is_known = is_german or (digits > 0 and _DUTCH_PASSPORT.fullmatch(compact) is not None)
    if not 6 <= len(compact) <= 12 or (digits < 3 and not is_known) or (compact.islower() and digits < 5):
        return 0.0
    is_typical = is_german or (compact[0].isalpha() and digits >= 6)
    return _TYPICAL if is_typical else _COMMON


PASSPORT: Final = (
    Pattern(
        apart(
            rb"(?:[A-Z]{1,3}[ -]?|[A-Za-z]{1,3})[0-9]{1,4}(?:[ -]?[0-9]{2,5}){1,3}[A-Za-z]?"
            rb"|[0-9]{2}[ -]?[0-9]{2}[ -]?[0-9]{6}"
            rb"|[0-9]{2,3}[ -][0-9]{3,7}(?:[ -][0-9]{3})?|[0-9]{2}[A-Za-z]{2}[0-9]{5}|[A-Za-z0-9]{6,12}",
            _BEFORE,
            _AFTER,
        ),
        _passport,
        near=_ABOUT_PASSPORTS,
        against=_OTHERS,
        weak=True,
        needs=b"1",
    ),
)

_MONTHS: Final = (
    "jan ene gen|feb fev fxv|mar mrt maa mae mxr|apr avr abr|may mai mag mei|jun jui giu|jul lug|aug aou ago aox"
    "|sep set|oct okt ott out|nov|dec dez dic dxc"
)
_MORE_MONTHS: Final = (
    "sty lut kwi maj cze lip sie wrz paz paxd lis gru|led uno bre dub kve cer srp zar rij lis pro"
    "|tam hel maal huh tou kes hei elo syy lok mar jou|oca sub mar nis may haz tem agu eyl eki kas ara|janv fevr juil"
)
"""Polish, Czech, Finnish and Turkish."""
_CYRILLIC: Final = "январ феврал март апрел мая май июн июл август сентябр октябр ноябр декабр"
_MONTH: Final = (
    rb"(?:"
    + re.sub("[ |]", "|", f"{_MONTHS}|{_MORE_MONTHS}").encode("ascii")
    + rb"|"
    + fold(_CYRILLIC).replace(b" ", b"|")
    + rb")[a-z]{0,9}"
)
"""The names of the months in the usual languages of Europe, by their beginnings."""
_WEEKDAY: Final = (
    rb"(?:mon|tue|wed|thu|fri|sat|sun|die|mit|don|fre|sam|son|lun|mar|mer|jeu|ven|dim|mie|jue|vie|sab|dom|gio|seg"
    rb"|ter|qua"
    rb"|qui|sex|maa|din|woe|vri|zat|zon|mxx|sxb)[a-z]{0,9}(?:-feira)?[.,]{0,2} (?:(?:the|den|el|le|il|de|dem) )?"
)
_CENTURY: Final = rb"(?:1[89]|20)[0-9]{2}"
_YEAR: Final = rb"(?:" + _CENTURY + rb"|['\xa1]?[0-9]{2})"
_DAY: Final = rb"[0-9]{1,2}(?:st|nd|rd|th|er|ste|de|e|o|a)?\.?"
_JOIN: Final = rb"(?:[ ,./-]{1,3}|[ ,./-]{0,2} ?(?:of|de|del|di|the|day of) )"
_SIGN: Final = rb" ?[-./ ] ?"
_TIME: Final = rb"(?:[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,9})?)?(?:Z|[+-][0-9]{2}:?[0-9]{2})?)?"
_WRITTEN: Final = (
    rb"(?:" + _WEEKDAY + rb")?(?:" + _DAY + _JOIN + _MONTH + _JOIN + _YEAR + rb"|" + _MONTH
    + rb"(?:\.? (?:the )?|[-/.])"
    + _DAY
    + rb"(?:[ ,./-]{1,3}" + _YEAR + rb")?|" + _CENTURY + _JOIN + _MONTH + _JOIN + _DAY + rb"|" + _DAY + _MONTH
    + _YEAR + rb")"
)  # fmt: skip
_NUMERIC: Final = (
    rb"(?:" + _WEEKDAY + rb")?(?:" + _CENTURY + _SIGN + rb"[0-9]{1,2}" + _SIGN + rb"[0-9]{1,2}" + _TIME
    + rb"|[0-9]{1,2}" + _SIGN + rb"[0-9]{1,2}" + _SIGN + _YEAR + rb"|" + _CENTURY
    + rb"[0-9]{4}|[0-9]{4}" + _CENTURY + rb")"
)  # fmt: skip
_ASIAN: Final = (
    rb"[0-9]{1,4} ?\x80 ?[0-9]{1,2} ?\x80 ?[0-9]{1,2} ?\x80|[\x90-\x99]{4}\x80(?:[\x90-\x99\x80]{1,3}\x80){1,2}"
)
_PARTIAL: Final = rb"" + _DAY + _JOIN + _MONTH + rb"|" + _MONTH + rb"\.?,? (?:of |de )?" + _CENTURY
_CLOCK: Final = re.compile("[T ][0-9]{2}:.*")
_LETTERS: Final = re.compile("[A-Za-z]{3}")
_ABOUT_BIRTH: Final = Context(
    rb"date[ _-]?of[ _-]?birth|birth[ _-]?(?:date|day|dt)s?|d\.?o\.?b\.?|bdays?|b-day|births?|born(?: on)?"
    rb"|geboren|geb\.?|geburts(?:datum|tag)(?:e?s|en?)?|n[ex]{1,2}e? (?:le|en)"
    rb"|(?:etes|es|est)[ -](?:vous|tu|il|elle)[ -]n[ex]{1,2}e?s?|date de naissance|naissance|nacid[oa]s?|nacimiento"
    rb"|naci(?: el|o|ste|eron|mos)?|(?:fecha|f\.?)[ _]?(?:de[ _])?nac\.?"
    rb"|date[ _](?:de[ _])?naiss\.?|data[ _](?:de|di)[ _]nasc\.?|ddn|geb(?:urts)?[ ._-]?dat\.?|cumple"
    rb"|nat[oa] (?:il|a|in)|(?:sei|siete|quando e) nat[oaei]|nascita|nascid[oa]s?|nasc(?:eu|este|eram|i)|nascimento"
    rb"|geboorte(?:datum|dag)?|jarig|f[ox]dt|f[ox]dd|fyller (?:du|ni)|urodz[a-z]+"
    rb"|cumplea[nx]os|f[ox]d(?:el)?sel?s?e?(?:datum|dato|dag)[a-z]{0,4}|f[ox]delse|syntym[xa]{1,2}[a-z]*|syntynyt"
    rb"|naroze[a-z]*"
    rb"|dogum[a-z]*(?: (?:tarihi|gunu))?|dogdu[a-z]+|narozen[a-z]*|narodi[a-z]*|narodeni[a-z]*|ro[xd]j?en[a-z]*"
    rb"|rojst[a-z]+"
    rb"|rojen[ai]?|gimim[a-z]*|gim[ex]t?[ei]|dzimsan[a-z]+|sunni(?:kuup[a-z]+|aeg|aja)?|sundinud"
    rb"|sz[uxe]let[a-z]*(?: [a-z]+)?|nascut|(?:data|ziua) (?:de )?naster[a-z]*|lahir|ngay sinh"
    rb"|anniversaire|compleanno|anivers[ax]rio|verjaardag",
    (
        "出生日期",
        "生日",
        "出生于",
        "生于",
        "出生",
        "生年月日",
        "생년월일",
        "생일",
        "출생",
        "誕生日",
        "生まれ",
        "рожден",
        "Рожден",
        "РОЖДЕН",
        "родил",
        "народжен",
        "Народжен",
        "народив",
        "народил",
        "γέννησ",
        "γεννήσ",
        "γεννήθηκ",
        "γεννηθ",
        "الميلاد",
        "תאריך לידה",
        "วันเกิด",
        "जन्म",
    ),
    loose=rb"turn(?:s|ed|ing)|ann[ex]e",
    family=_FAMILY,
)
_OTHER_DATES: Final = Context(
    rb"(?:issue|expiry|expiration|due|start|end|hire|visit|order|invoice|release|effective|sign(?:ing|ed)?)[ _-]?date"
    rb"|died|deaths?|deceased|hired|issued?|expir[a-z]+|valid|admi[a-z]+|discharged?|visit(?:ed)?|appointments?"
    rb"|created?(?:_at)?"
    rb"|updated?(?:_at)?|modified|due|deadline|invoiced?|since|joined|started?|ended|married|graduated|published"
    rb"|released|timestamp|date"
)


def _birthday(candidate: Candidate) -> float:
    """A date with all four digits of its year is typical; others count only where the word names them."""
    value = candidate.value
    if "\x80" in value:
        return _TYPICAL
    if re.fullmatch("[0-9]{8}", value):
        return _COMMON if _is_compact_date(value) else 0.0
    numbers = [int(number) for number in re.findall("[0-9]+", _CLOCK.sub("", value))][:3]
    years = [number for number in numbers if number > 31]
    others = [number for number in numbers if number <= 31]
    if len(years) > 1 or any(not number >= 1 for number in others[:2]) or years[0:1] > [2100]:
        return 0.0
    is_numeric = len(numbers) == 3 and not _LETTERS.search(value)
    if is_numeric and min(others[:2]) > 12:
        return 0.0
    return _TYPICAL if years and years[0] >= 1800 and others else _COMMON


def _is_compact_date(digits: str) -> bool:
    """YYYYMMDD or DDMMYYYY or MMDDYYYY."""
    begins = digits[:2] in {"18", "19", "20"} and 1 <= int(digits[4:6]) <= 12 and 1 <= int(digits[6:]) <= 31
    ends = digits[4:6] in {"18", "19", "20"} and 1 <= min(int(digits[:2]), int(digits[2:4])) <= 12
    return begins or (ends and max(int(digits[:2]), int(digits[2:4])) <= 31)


def _dates(formats: bytes) -> Pattern:
    return Pattern(
        Regex(rb"(?i)(?:^|[^0-9A-Za-z_.])(" + formats + rb")(?:[^0-9A-Za-z_]|_|$)"),
        _birthday,
        near=_ABOUT_BIRTH,
        against=_OTHER_DATES,
        weak=True,
        needs=b"1",
    )


DATE_OF_BIRTH: Final = (_dates(_WRITTEN), _dates(_NUMERIC), _dates(_ASIAN), _dates(_PARTIAL))
