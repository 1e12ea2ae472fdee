"""Names of people. A person with two spellings could be in both training and test."""

import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator

# What programs and people write for a missing value, in names as in numbers. NA and ND may be initials.
MISSING = ("", "-", ".", "?", "n/a", "nan", "null", "missing", "unknown")
_ROUNDED = re.compile(r"[+-]?\d+([.,]\d+)?E\+?\d+|\d{15}0{3,}", re.IGNORECASE | re.ASCII)
# How spreadsheets shorten the months in English, German, French, Spanish, Italian, Portuguese, Dutch, Polish and the
# languages of Scandinavia. Those of the second list are words or names of their own, so only a day makes them a date.
_MONTHS = (
    "jan|feb|mar|apr|may|jun|jul|aug|sep|sept|oct|nov|dec|jän|mär|mrz|mai|maj|mei|mrt|okt|dez|des|janv|févr|fevr|fév|"
    "mars|avr|juin|juil|août|aout|déc|ene|abr|ago|dic|giu|lug|ott|fev|kwi|cze|paź|gru"
)
_MORE_MONTHS = "gen|mag|set|out|sty|lut|lip|sie|wrz|lis|januar|february|märz|april|juni|juli|june|july|august|juillet"
_TIME = r"\d{1,2}:\d\d(:\d\d(\.\d+)?)?( ?[ap]m)?"
_DAY, _MONTH = r"(0?[1-9]|[12]\d|3[01])", r"(0?[1-9]|1[0-2])"
_DATE = re.compile(
    rf"\d{{4}}[-/.]{_MONTH}[-/.]{_DAY}([ t]{_TIME})?|{_TIME}|\d+ days?, {_TIME}"
    rf"|({_DAY}[-/.]{_MONTH}|{_MONTH}[-/.]{_DAY})[-/.]\d{{4}}|\d\d\.\d\d\.\d\d|\d{{1,2}}/\d{{1,2}}/\d\d"
    rf"|\d{{1,2}}(-|/|\. ?| )({_MONTHS}|{_MORE_MONTHS})\.?([-/. ]+\d{{2,4}})?|({_MONTHS})\.?[- ]\d\d(\d\d)?",
    re.IGNORECASE | re.ASCII,
)
_DATE_NUMBER = re.compile(r"(3[6-9]|4\d|5[0-4])\d{3}", re.ASCII)  # 1998 to 2050
_BEFORE_DATE = re.compile(r"\d{1,2}[-/.](\d\d?|\d{4})", re.ASCII)  # what spreadsheets take for a date if they can
_MM, _DD, _YYYY = "(?:0[1-9]|1[0-2])", r"(?:0[1-9]|[12]\d|3[01])", r"(?:19|20)\d\d"
_LONG_DATE = rf"{_YYYY}(?P<a>[-_.]?){_MM}(?P=a){_DD}|{_DD}(?P<b>[-_.]?){_MM}(?P=b){_YYYY}"
_SHORT_DATE = rf"[0-3]\d(?P<c>\.?){_MM}(?P=c){_DD}|{_DD}(?P<d>\.?){_MM}(?P=d)[0-3]\d"
_OCCASION = re.compile(  # a person, and when or on which side they were filmed
    r"(.*\w)[-_. /]+(?:(?:visit|session|ses|time|day|week|month|year|(?:pre|post)(?:[-_. ]?op)?|before|after|baseline"
    r"|bl|follow[-_ ]?up|fu|on|off|left|right)[-_. ]*\d*|\d+[-_. ]*(?:months?|weeks?|days?|years?))"
    r"|(.*?(?<!\d)(\d++))(?:[-_. /]*(?:(?:[vtm]|(?<=[-_. /])[wdy])[-_. ]*(\d+)|[lr])|[-_. ]+\d{1,2}m| ?\(\d+\)"
    rf"|(?:[-_. ]+(?:{_LONG_DATE})|(?<!\d{{6}})[-_. ]+(?:{_SHORT_DATE}))(?:[-_. t]+[0-2]\d[0-5]\d(?:[0-5]\d)?)?)",
    re.IGNORECASE,
)
_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ø": "oe", "å": "aa"})
_STROKES = str.maketrans({"æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i"})
# Cyrillic and Greek capitals that look like Latin ones, and the minus sign.
_LOOKS = str.maketrans(
    "АВЕЅІЈКМНОРСТУХԚԜѴΑΒΕΖΗΙΚΜΝΟΡΤΥΧ\u2212", "ABESIJKMHOPCTYXQWVABEZHIKMNOPTYX-"
)  # fmt: skip


def clean(text: str) -> str:
    """Removes invisible differences: composes letters, drops zero-width characters, trims and unifies blanks."""
    visible = (" " if unicodedata.category(x) == "Zs" else x for x in text if unicodedata.category(x) != "Cf")
    return unicodedata.normalize("NFC", "".join(visible)).strip()


def is_missing(name: str) -> bool:
    """Whether a cell has no name: a spreadsheet's error such as #N/A, or what programs write for a missing value."""
    shown = name.startswith("#") and (name.endswith(("!", "?", "/A")) or not name.strip("#"))  # ###: a narrow column
    return shown or name.lower() in MISSING


def changed_by_spreadsheets(names: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yields each name that a spreadsheet has changed, and how.

    It rounds long numbers (1.23E+11, 123456789012345000), and takes names such as 3-4 for dates (4-Mar, 4. Mrz,
    04.03.2024) or times. A date becomes a day counted from 1900 when its column is then formatted as text; names of
    the same form that cannot be dates, such as 13-45, show that this has happened.
    """
    with_days = any(map(_BEFORE_DATE.fullmatch, names))
    for name in names:
        if _ROUNDED.fullmatch(name):
            yield name, "a number rounded"
        elif _DATE.fullmatch(name) or (with_days and _DATE_NUMBER.fullmatch(name)):
            yield name, "a name taken for a date"


def perhaps_alike(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yields pairs of names that may be one person, except for those that ``alike`` yields.

    They differ only in a visit, a date, medication or a side (P01_V1, P01_V2), in the order of words ("Lee, Kim", "Kim
    Lee"), or in how accents are written (Müller, Mueller, Muller).

    UK2_V01 and UK2_V02 do not: numbers padded to more digits than the one before them count the people of a site.
    """
    found = {name: _OCCASION.fullmatch(name) for name in sorted(set(names))}
    sites = {x[2] for x in found.values() if x and (x[4] or "").startswith("0") and len(x[4]) > len(x[3])}
    bases = {name: x and (x[1] or x[2]) for name, x in found.items()}
    first: dict[object, str] = {}
    for name, base in bases.items():
        person = clean(name if base is None or base in sites else base).casefold()
        forms = (_plain(person), _plain(person.translate(_UMLAUTS)))
        others = {first.setdefault(_spelling(form, ordered=False), name) for form in forms}
        yield from ((other, name) for other in sorted(others) if _spelling(other) != _spelling(name))


def alike(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yields pairs of different names that look like the same person.

    They differ only in case, in separators (P-01, P_01, P01), in leading zeros (007, 7), in a spreadsheet's number
    format (7.0, 7), or in characters that look the same.
    """
    first: dict[object, str] = {}
    for name in sorted(set(names)):
        other = first.setdefault(_spelling(name), name)
        if other != name:
            yield other, name


def _plain(name: str) -> str:
    """A name in lower case, without its accents. The marks of other scripts stay, since they tell words apart."""
    letters = unicodedata.normalize("NFD", name.translate(_STROKES))
    return "".join(x for x in letters if not "\u0300" <= x <= "\u036f")


def _spelling(name: str, ordered: bool = True) -> object:
    """What the spellings of a name have in common; if not ``ordered``, also those with its words in another order."""
    plain = clean(unicodedata.normalize("NFKC", name)).casefold().upper().translate(_LOOKS)
    if whole := re.fullmatch(r"(\d+)[.,]0*", plain):
        plain = whole[1]
    plain = "".join(" " if unicodedata.category(x)[0] in "PZ" else x for x in unicodedata.normalize("NFKC", plain))
    if not ordered and not any(map(str.isdecimal, plain)):
        plain = " ".join(sorted(plain.split()))
    plain = re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", plain)  # 1-12 is not 11-2
    parts = re.findall(r"\d+|\D+", plain)
    return tuple(part.lstrip("0") if part.isdecimal() else part for part in parts) or name
