"""Completion scripts: click's, but for words that go on behind `=`, `,`, `/` or `(`."""

from __future__ import annotations

import os
import re
from typing import Any, ClassVar

from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
    split_arg_string,
)

__all__ = ["COMPLETE", "PROGRAM", "SHELLS", "Bash", "Fish", "Zsh"]

PROGRAM = "kpusim"
COMPLETE = "_KPUSIM_COMPLETE"
"""The variable by which a script asks for completions; click derives it from the program's name."""

_BREAKS = ("=", ":")  # of bash's COMP_WORDBREAKS, those that stand in our words


class _Whole(ShellComplete):
    """Completes `--option=value` as the one word that it is; click gives the value alone."""

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[str]]:
        """The words that may stand in place of the incomplete one."""
        found, option = super().get_completions(args, incomplete), re.match("--[^=]*=", incomplete)
        return [CompletionItem(option[0] + item.value, item.type, item.help) for item in found] if option else found


@add_completion_class
class Bash(_Whole, BashComplete):
    """bash splits words at `=` and `:` and completes only what is behind; and adds a space unless told not to."""

    name: ClassVar[str] = "bash"
    source_template: ClassVar[str] = """\
%(complete_func)s() {
    local IFS=$'\\n' line
    COMPREPLY=()
    while read -r line; do
        case $line in
            dir,*) compopt -o dirnames ;;
            file,*) compopt -o default ;;
            plain,*) COMPREPLY+=("${line#plain,}") ;;
        esac
    done < <(COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD %(complete_var)s=bash_complete "$1" 2>/dev/null)
    if [[ ${#COMPREPLY[@]} == 1 && $COMPREPLY == *[=/,\\(] ]]; then
        compopt -o nospace
    fi
}
complete -o nosort -F %(complete_func)s %(prog_name)s kpu
"""

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the cursor and the word at it, joined again."""
        words = os.environ["COMP_WORDS"].split("\n")[: int(os.environ["COMP_CWORD"]) + 1]
        joined: list[str] = []
        glued = False
        for word in words:
            if joined and (glued or word in _BREAKS):
                joined[-1] += word
            else:
                joined.append(word)
            glued = word in _BREAKS
        self._quoted = words[-1].startswith(('"', "'"))
        self._typed = len(joined[-1] if glued else joined[-1].removesuffix(words[-1]))
        args = [(split_arg_string(word) or [""])[0] for word in joined]
        return args[1:-1], args[-1]

    def format_completion(self, item: CompletionItem[Any]) -> str:
        """What replaces the part of the word that bash completes."""
        value = str(item.value)[self._typed :]
        if not self._quoted:
            value = f'"{value}' if value.endswith("(") else re.sub(r"([^\w@%+=:,./~-])", r"\\\1", value)
        return f"{item.type},{value}"


@add_completion_class
class Zsh(_Whole, ZshComplete):
    """As click's; no space behind a word that goes on."""

    name: ClassVar[str] = "zsh"
    source_template: ClassVar[str] = """\
#compdef %(prog_name)s kpu

%(complete_func)s() {
    local -a plain described open response
    local type key descr
    response=("${(@f)$(COMP_WORDS="${words[*]}" COMP_CWORD=$((CURRENT-1)) %(complete_var)s=zsh_complete "${words[1]}" \
2>/dev/null)}")
    for type key descr in ${response}; do
        if [[ "$type" == dir ]]; then
            _path_files -/
        elif [[ "$type" == file ]]; then
            _path_files -f
        elif [[ "$key" == *[=/,\\(] ]]; then
            open+=("$key")
        elif [[ "$descr" == _ ]]; then
            plain+=("$key")
        else
            described+=("$key:$descr")
        fi
    done
    (( $#described )) && _describe -V unsorted described -U
    (( $#plain )) && compadd -U -V unsorted -a plain
    (( $#open )) && compadd -U -S '' -V unsorted -a open
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    %(complete_func)s "$@"
else
    compdef %(complete_func)s %(prog_name)s kpu
fi
"""


@add_completion_class
class Fish(_Whole, FishComplete):
    """As click's; a word may have commas."""

    name: ClassVar[str] = "fish"
    source_template: ClassVar[str] = FishComplete.source_template.replace('string split ","', 'string split -m 1 ","')


SHELLS = {kind.name: kind for kind in (Bash, Zsh, Fish)}
