"""`hf-distill completion`: a script with which a shell completes commands, flags, and the names behind them.

The script holds all words, so that completing starts no Python; after an update of the package it is written anew.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from shlex import quote

from hf_distill.commands import reports_errors
from hf_distill.commands.help import Parser
from hf_distill.commands.main import COMMANDS
from hf_distill.commands.words import Words, known_words
from hf_distill.version import __version__

DESCRIPTION = """Prints the script with which a shell completes what is typed behind hf-distill: commands, flags, and
the names of recipes, objectives and choices. Write it once, and again after an update:

  hf-distill completion bash > ~/.local/share/bash-completion/completions/hf-distill
  hf-distill completion zsh > ~/.zfunc/_hf-distill    # with fpath+=~/.zfunc before compinit
  hf-distill completion fish > ~/.config/fish/completions/hf-distill.fish"""

TOP = ("help", "--help", "--version")
"""Words that may stand for a command."""

LOGIC = r"""
_hf_distill_candidates() {  # the word that is typed, then those before it
    local current="$1" place flag="" behind=0 word found=""
    shift
    if [ "${1-}" = help ]; then shift; fi
    if [ -z "${1-}" ]; then _hf_distill_others ""; return; fi
    place="$1"
    shift
    case "$place ${1-}" in @PLACES@) place="$place $1"; shift ;; esac
    for word in "$@"; do
        case "$word" in
            -*) flag="${word%%=*}" behind=0 ;;
            *) behind=$((behind + 1)) ;;
        esac
    done
    if [ -n "$flag" ]; then
        if [ "$behind" -gt 0 ]; then flag="$flag +"; fi
        found="$(_hf_distill_values "$place $flag")"
    fi
    case "$current" in
        -*) found="$(_hf_distill_flags "$place")" ;;
        *) if [ -z "$found" ]; then found="$(_hf_distill_others "$place")"; fi ;;
    esac
    if [ -z "$found" ] && [ $# -eq 0 ]; then found="$(_hf_distill_flags "$place")"; fi
    echo "$found"
}
"""
"""For shells that know the words of POSIX, and `local`. (`words` is a name of zsh's own.)"""

BASH = r"""
_hf_distill() {
    local current="${COMP_WORDS[COMP_CWORD]}" last=$((COMP_CWORD - 1)) before
    if [ "$current" = "=" ]; then current=""; fi
    if [ "${COMP_WORDS[last]}" = "=" ]; then last=$((last - 1)); fi
    before=("${COMP_WORDS[@]:1:last}")
    COMPREPLY=($(compgen -W "$(_hf_distill_candidates "$current" "${before[@]}")" -- "$current"))
}
complete -o default -F _hf_distill hf-distill
"""

ZSH = r"""
_hf_distill() {
    local found="$(_hf_distill_candidates "$words[CURRENT]" "${(@)words[2,CURRENT-1]}")"
    [ -n "$found" ] && compadd -- ${=found} || _files
}
if [ "$funcstack[1]" = _hf-distill ]; then _hf_distill; else compdef _hf_distill hf-distill; fi
"""

FISH = r"""
function __hf_distill_in
    set -l words (commandline -opc)
    contains -- "$words[2]" $argv; or contains -- "$words[2] $words[3]" $argv
end
function __hf_distill_first
    test (count (commandline -opc)) -eq $argv[1]
end
"""


def parser() -> Parser:
    """The flags."""
    made = Parser("completion", DESCRIPTION)
    made.add_argument("shell", choices=tuple(SHELLS), help="the shell that reads the script")
    return made


@reports_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Prints the script of a shell; the exit status."""
    given = parser().parse_args(argv)
    head = f"# hf-distill {__version__}: written by `hf-distill completion {given.shell}`\n"
    sys.stdout.write(SHELLS[given.shell](head, known_words()))
    return 0


def bash(head: str, words: Mapping[str, Words]) -> str:
    """The script for bash."""
    return head + _tables(words) + BASH


def zsh(head: str, words: Mapping[str, Words]) -> str:
    """The script for zsh."""
    return "#compdef hf-distill\n" + head + _tables(words) + ZSH


def _tables(words: Mapping[str, Words]) -> str:
    """Functions that print words by where they may stand, and one that knows where that is."""
    others = {"": (*COMMANDS, *TOP)} | {place: each.others for place, each in words.items()}
    flags = {place: each.flags for place, each in words.items()}
    values = {f"{place} {flag}": each.values[flag] for place, each in words.items() for flag in each.values}
    values |= {
        f"{place} {flag} +": each.values[flag]
        for place, each in words.items()
        for flag in each.values
        if flag in each.several
    }
    places = "|".join(quote(place) for place in words if " " in place)
    functions = [_function(name, table) for name, table in (("others", others), ("flags", flags), ("values", values))]
    return "".join(functions) + LOGIC.replace("@PLACES@", places)


def _function(name: str, table: Mapping[str, Sequence[str]]) -> str:
    """`_hf_distill_<name> PLACE` prints the words of the place."""
    lines = [
        f"    {'|'.join(map(quote, places))}) echo {quote(' '.join(words))} ;;" for words, places in _turned(table)
    ]
    return "\n".join([f"\n_hf_distill_{name}() {{", '  case "$1" in', *lines, "  esac", "}", ""])


def _turned(table: Mapping[str, Sequence[str]]) -> Iterable[tuple[tuple[str, ...], list[str]]]:
    """The places by the words, so that the same words stand there once."""
    found: dict[tuple[str, ...], list[str]] = {}
    for place, words in table.items():
        if words:
            found.setdefault(tuple(words), []).append(place)
    return found.items()


def fish(head: str, words: Mapping[str, Words]) -> str:
    """The script for fish."""
    lines = [
        _fish("__hf_distill_first 1", f"-f -a {quote(name)} -d {quote(row.meaning)}") for name, row in COMMANDS.items()
    ]
    lines.append(_fish("__hf_distill_first 1", "-f -a help"))
    for place, each in words.items():
        if each.others:
            here = f"__hf_distill_in {quote(place)}; and __hf_distill_first {2 + place.count(' ')}"
            lines.append(_fish(here, f"-f -a {_all(each.others)}"))
    flags = {
        f"{place}\n{flag}": (flag, *each.values.get(flag, ())) for place, each in words.items() for flag in each.flags
    }
    for (flag, *values), keys in _turned(flags):
        places = " ".join(quote(key.partition("\n")[0]) for key in keys)
        behind = f" -x -a {_all(values)}" if values else ""
        lines.append(_fish(f"__hf_distill_in {places}", f"-l {flag[2:]}{behind}"))
    return head + FISH + "\n".join(lines) + "\n"


def _fish(condition: str, rest: str) -> str:
    return f'complete -c hf-distill -n "{condition}" {rest}'


def _all(words: Iterable[str]) -> str:
    return quote(" ".join(words))


SHELLS = {"bash": bash, "zsh": zsh, "fish": fish}
