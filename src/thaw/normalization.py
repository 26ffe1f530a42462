"""Names of classes, files, columns and experiments in the form in which they are compared."""

import unicodedata

INVISIBLE = "\u200b\u2060\ufeff\u00ad"  # format characters that nobody sees; joiners of letters must stay
UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")  # Unicode categories: control characters, surrogates, line breaks


def normalized(name: str) -> str:
    """A name in Unicode's composed form (NFC), with line breaks and unprintable characters escaped."""
    composed = unicodedata.normalize("NFC", name)
    return "".join(
        character.encode("unicode_escape").decode() if is_unseen(character) else character for character in composed
    )


def stripped(name: str) -> str:
    """The same, without surrounding white space."""
    return normalized(name.strip())


def is_unseen(character: str) -> bool:
    """Whether a character breaks a line or does not print."""
    return unicodedata.category(character) in UNPRINTABLE or character in INVISIBLE
