"""Markdown for MLflow's descriptions."""

import html
import shlex

CODE_WIDTH = 60  # columns of a command; wider ones push the values of a run out of sight


def table(headings: list[str], rows: list[list[str]]) -> str:
    """A table."""
    lines = [f"| {' | '.join(map(html.escape, line))} |" for line in [headings, *rows]]
    return "\n".join([lines[0], "|" + " --- |" * len(headings), *lines[1:]])


def code_block(command: str) -> str:
    """A command in lines that fit a page; still a command for a shell."""
    lines: list[str] = []
    for word in map(shlex.quote, shlex.split(command)):
        if lines and len(lines[-1]) + 1 + len(word) <= CODE_WIDTH:
            lines[-1] += f" {word}"
        else:
            lines.append(f"  {word}" if lines else word)
    return "```\n" + " \\\n".join(lines) + "\n```"
