"""Names that people give to classes, files, columns and experiments: one form of each, in which they are compared."""

import unicodedata

UNSEEN = ("Cc", "Cs", "Zl", "Zp")  # Unicode's categories of what breaks lines, or prints as nothing


def plain(name: str) -> str:
    """A name in Unicode's composed form (NFC), with an escape for each sign that breaks lines or does not print."""
    composed = unicodedata.normalize("NFC", name)
    return "".join(sign.encode("unicode_escape").decode() if is_unseen(sign) else sign for sign in composed)


def trimmed(name: str) -> str:
    """The same without white space around it, as for classes, columns and experiments."""
    return plain(name.strip())


def is_unseen(sign: str) -> bool:
    """Whether a sign breaks lines, or prints as nothing."""
    return unicodedata.category(sign) in UNSEEN
